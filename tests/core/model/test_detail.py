"""What the consensus map shows and the Gaussians do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from trained import BOX, write_model

from gaussianem_core.imaging.fourier import (
    centred_irfftn,
    centred_rfftn,
    fourier_resample,
    fourier_shell_correlation,
    frequency_grid,
    fsc_area,
)
from gaussianem_core.io.checkpoint import load_checkpoint, save_checkpoint
from gaussianem_core.model.detail import missing_detail
from gaussianem_core.model.trained_model import load_model

SIDE = 32


def filtered(volume: torch.Tensor, exponent: float) -> torch.Tensor:
    """Sharpened (``exponent`` > 0) or blurred, like by a B-factor."""
    factor = torch.exp(exponent * (2 * frequency_grid(SIDE, 3)).square())
    return centred_irfftn(centred_rfftn(volume, 3) * factor, 3, SIDE)


@pytest.fixture
def truth() -> torch.Tensor:
    """Sharp positive blobs in a negative shell: Gaussians can show its blurred positive part alone."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.arange(SIDE) - SIDE // 2
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).float()
    radius = grid.norm(dim=-1)
    inside = torch.rand(SIDE, SIDE, SIDE, generator=generator) * (radius < 7)
    return filtered(inside - 0.3 * ((radius >= 7) & (radius < 9)), -1.0)


def area(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(fsc_area(fourier_shell_correlation(first, second), SIDE))


def test_what_gaussians_cannot_show_is_added_whatever_the_maps_units_and_sharpening(truth: torch.Tensor) -> None:
    shown = filtered(truth.clamp_min(0), -0.7)
    alone = area(shown, truth)
    found = missing_detail(truth, shown)
    assert alone < 0.97 * area(truth, truth) < area(shown + found, truth) + 0.01
    other = missing_detail(300 * filtered(truth, 2.0), shown)
    assert float((other - found).norm() / found.norm()) < 0.1  # a shell is not infinitely thin


def test_noise_of_the_map_stays_out(truth: torch.Tensor) -> None:
    shown = filtered(truth, -0.7)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(SIDE, SIDE, SIDE, generator=generator) * truth.std()
    noisy = truth + 0.3 * noise
    whole = shown + missing_detail(noisy, shown)
    assert area(whole, truth) > area(noisy, truth) + 0.02
    # where there is nothing, next to nothing is added
    solvent = torch.zeros(SIDE, SIDE, SIDE, dtype=torch.bool)
    solvent[:6] = True
    assert float(whole[solvent].std()) < 0.5 * float(noisy[solvent].std())
    corners = torch.zeros_like(solvent)
    corners[:4, :4] = True  # far from all density: nothing at all
    assert float((whole - shown)[corners].abs().max()) == 0
    # a map of noise alone, or one that was filtered, takes nothing away either
    assert area(shown + missing_detail(noise, shown), truth) > area(shown, truth) - 0.01
    passed = frequency_grid(SIDE, 3) < 0.25
    coarse = centred_irfftn(centred_rfftn(truth, 3) * passed, 3, SIDE)
    assert area(shown + missing_detail(coarse, shown), truth) > area(shown, truth) - 0.005


def test_a_part_of_the_map_without_gaussians_is_added(truth: torch.Tensor) -> None:
    """By what its noise filter leaves of it, and a faint part as much of it as a strong one."""
    part = torch.zeros(SIDE, SIDE, SIDE)
    part[4:7, 15:18, 15:18] = 1.0  # 11 voxels from the centre
    part = filtered(part, -0.7)
    part, here = part * (truth.max() / part.max()), part > 0.5 * part.max()
    shown = filtered(truth.clamp_min(0), -0.7)
    for strength in (0.3, 1.0):
        found = missing_detail(truth + strength * part, shown)
        assert float(found[here].mean()) > 0.2 * strength * float(part[here].mean())


def test_volumes_of_a_model_show_it_in_every_box(tmp_path: Path) -> None:
    z = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    folder = write_model(tmp_path, z)
    files = (folder / "cfg.json", folder / "weights.0.pkl", folder / "point_cloud.ply", None, "cpu")
    bare = list(load_model(*files).volumes(z))
    detail = torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(0))
    content = load_checkpoint(folder / "weights.0.pkl")
    save_checkpoint({**content, "detail": detail}, folder / "weights.0.pkl")
    whole = load_model(*files)
    for volume, before in zip(whole.volumes(z), bare):
        torch.testing.assert_close(volume, before + detail)
    for box in (BOX + 7, BOX, 2 * BOX):
        torch.testing.assert_close(
            whole.consensus_volume(box) - load_model(*files, detail=False).consensus_volume(box),
            fourier_resample(detail, box),
            atol=1e-5,
            rtol=1e-5,
        )
    # of another box it belongs to another training
    save_checkpoint({**content, "detail": detail[:4, :4, :4].clone()}, folder / "weights.0.pkl")
    assert load_model(*files).detail is None
