"""Back-projection gives the volume back: convention, resolution, weights; its kernels equal the reference."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.backprojection import accumulate, empty_sums, inverse_prior, solve
from gaussianem_core.imaging.ctf import apply_ctf, ctf
from gaussianem_core.imaging.fourier import fourier_shell_correlation
from gaussianem_core.imaging.pose import random_rotations, rotations_from_angles
from gaussianem_core.imaging.projection import project
from gaussianem_core.imaging.voxelization import voxelize
from gaussianem_core.io.image_stack import ImageStack
from gaussianem_core.io.mrc import read_map
from gaussianem_core.io.particle_table import read_particles

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BACKENDS = [
    "cpu",
    pytest.param("triton-interpreted", marks=pytest.mark.skipif(not INTERPRETED, reason="in a process of its own")),
    pytest.param(
        "triton-cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]
BOX = 32


def molecule(reach: float) -> tuple[Tensor, Tensor, Tensor]:
    """150 points in a ball of ``reach`` (world units), peak densities, and widths of one pixel; float64."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(150, 3, generator=generator, dtype=torch.float64)
    radius = reach * torch.rand(150, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
    positions = direction / direction.norm(dim=1, keepdim=True) * radius
    densities = 0.5 + torch.rand(150, generator=generator, dtype=torch.float64)
    return positions, densities, torch.full((150,), 2 / BOX, dtype=torch.float64)


def poses(count: int) -> tuple[Tensor, Tensor]:
    rotations = torch.from_numpy(random_rotations(count, np.random.default_rng(1)))
    return rotations, torch.from_numpy(np.random.default_rng(2).normal(0, 1.5, (count, 2)))


def optics(count: int) -> Tensor:
    """CTF parameters at 3 A/px, defocus 0.5 to 2.5 um with some astigmatism."""
    generator = np.random.default_rng(3)
    defocus = generator.uniform(5000, 25000, count)
    columns = [BOX, 3.0, defocus, defocus - 300, generator.uniform(0, 180, count), 300, 2.7, 0.1, 0]
    return torch.from_numpy(np.stack([np.broadcast_to(c, count) for c in columns], 1)).float()


def test_no_shell_is_lost_to_nine_tenths_of_nyquist() -> None:
    # 400 images without noise, each with its shift and CTF. Near Nyquist the cut sphere itself costs a thousandth.
    scene, (rotations, shifts) = molecule(0.5), poses(400)
    transfer = -ctf(optics(400), BOX).double()
    images = apply_ctf(project(*scene, rotations, shifts, BOX, backend="reference"), transfer)
    sums = accumulate(empty_sums(BOX, dtype=torch.float64), images, rotations, shifts, transfer)
    true = voxelize(*scene, BOX, backend="reference") * (2 / BOX)
    fsc = fourier_shell_correlation(solve(sums), true)
    assert fsc[: int(0.9 * BOX / 2) + 1].min() > 0.999
    mirrored = fourier_shell_correlation(solve(sums).flip(0).roll(1, 0), true)
    assert mirrored[5:].abs().max() < 0.6  # the hand is the molecule's
    assert (solve(sums) * true).sum() / true.square().sum() == pytest.approx(1, abs=0.01)
    # In single precision, on the kernels of the CPU, and image by image: the same volume.
    single = empty_sums(BOX)
    for part in torch.arange(400).split(37):
        accumulate(single, *(t[part].float() for t in (images, rotations, shifts, transfer)))
    assert fourier_shell_correlation(solve(single).double(), solve(sums)).min() > 1 - 1e-6


def test_a_point_stays_where_it_is() -> None:
    # Off centre, between voxels, in an even box; angles as RELION writes them.
    place = torch.tensor([[0.3, -0.21, 0.12]], dtype=torch.float64)
    rotations = torch.from_numpy(rotations_from_angles(np.random.default_rng(0).uniform(-180, 180, (300, 3))))
    shifts = poses(300)[1]
    one, width = torch.ones(1, dtype=torch.float64), torch.full((1,), 3.0 / BOX, dtype=torch.float64)
    images = project(place, one, width, rotations, shifts, BOX, backend="reference")
    volume = solve(accumulate(empty_sums(BOX, dtype=torch.float64), images, rotations, shifts))
    core = torch.where(volume > 0.1 * volume.max(), volume, 0)
    axis = torch.arange(BOX, dtype=torch.float64)
    for dims, coordinate in (((0, 1), 0), ((0, 2), 1), ((1, 2), 2)):
        centre = (core.sum(dims) * axis).sum() / core.sum()
        assert centre == pytest.approx(float(BOX // 2 + place[0, coordinate] * BOX / 2), abs=0.02)


def test_weights_by_image_and_by_shell() -> None:
    scene, (rotations, shifts) = molecule(0.5), poses(60)
    images = project(*scene, rotations, shifts, BOX, backend="reference")
    some = accumulate(empty_sums(BOX, dtype=torch.float64), images[:40], rotations[:40], shifts[:40])
    noisy = images + 100 * (torch.arange(60) >= 40)[:, None, None] * torch.randn_like(images)
    weights = (torch.arange(60) < 40).double()
    left_out = accumulate(empty_sums(BOX, dtype=torch.float64), noisy, rotations, shifts, weights=weights)
    torch.testing.assert_close(left_out, some)
    by_shell = weights[:, None].expand(60, BOX // 2 + 1) * torch.linspace(1, 3, BOX // 2 + 1, dtype=torch.float64)
    shells = accumulate(empty_sums(BOX, dtype=torch.float64), noisy, rotations, shifts, weights=by_shell)
    assert shells[..., 2].sum() > 2 * some[..., 2].sum()
    # A weight that all images share in a shell does not change the volume.
    fsc = fourier_shell_correlation(solve(shells), solve(some))
    assert fsc.min() > 0.99
    # Sums of parts are the sum of all.
    rest = accumulate(empty_sums(BOX, dtype=torch.float64), images[40:], rotations[40:], shifts[40:])
    whole = accumulate(empty_sums(BOX, dtype=torch.float64), images, rotations, shifts)
    torch.testing.assert_close(some + rest, whole)


def test_a_prior_from_half_maps_holds_back_noise() -> None:
    torch.manual_seed(0)
    scene, (rotations, shifts) = molecule(0.5), poses(400)
    images = project(*scene, rotations, shifts, BOX, backend="reference")
    images = images + 3 * images.std() * torch.randn_like(images)
    halves = []
    for part in (slice(0, 200), slice(200, 400)):
        halves.append(accumulate(empty_sums(BOX, dtype=torch.float64), images[part], rotations[part], shifts[part]))
    true = voxelize(*scene, BOX, backend="reference") * (2 / BOX)
    fsc = fourier_shell_correlation(*map(solve, halves))
    assert fsc[3] > 0.8 and fsc[-3:].max() < 0.3
    prior = inverse_prior(halves[0], fsc)
    plain, filtered = solve(halves[0] + halves[1]), solve(halves[0] + halves[1], prior)
    assert (filtered - true).square().sum() < 0.5 * (plain - true).square().sum()
    # The Wiener filter of a shell is its SSNR / (SSNR + 1) for twice the images of a half.
    spectra = [torch.fft.rfftn(volume) for volume in (plain, filtered)]
    radius = (torch.fft.fftfreq(BOX)[:, None, None] ** 2 + torch.fft.fftfreq(BOX)[:, None] ** 2).sqrt() * BOX
    radius = (radius.square() + (torch.fft.rfftfreq(BOX) * BOX).square()).sqrt().round()
    for shell in (5, 8):
        inside = radius == shell
        kept = (spectra[1][inside].abs().square().sum() / spectra[0][inside].abs().square().sum()).sqrt()
        expected = 2 * fsc[shell] / (1 + fsc[shell])
        assert kept == pytest.approx(float(expected), abs=0.1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fast_kernels_equal_the_reference(backend: str) -> None:
    torch.manual_seed(0)
    name, _, device = backend.partition("-")
    box, count = 12, 7
    rotations, shifts = poses(count)
    images = torch.randn(count, box, box, dtype=torch.float64)
    transfer = torch.randn(count, box, box // 2 + 1, dtype=torch.float64)
    weights = torch.rand(count, box // 2 + 1, dtype=torch.float64)
    given = (images, rotations, shifts, transfer, weights)
    exact = accumulate(empty_sums(box, dtype=torch.float64), *given)
    place = "cuda" if device == "cuda" else "cpu"
    fast = accumulate(empty_sums(box, place), *(t.float().to(place) for t in given), backend=name)  # type: ignore[arg-type]
    # Single precision: places on the grid are known to 1e-6 of a step.
    torch.testing.assert_close(fast.cpu().double(), exact, atol=1e-5 * float(exact.abs().max()), rtol=0)


@pytest.mark.skipif(INTERPRETED, reason="already in the interpreter")
@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_triton_in_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "triton-interpreted", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="must be even"):
        empty_sums(15)
    sums, images = empty_sums(8), torch.zeros(2, 8, 8)
    with pytest.raises(InputError, match=r"rotations: must have shape \(2, 3, 3\)"):
        accumulate(sums, images, torch.eye(3)[None], torch.zeros(2, 2))
    with pytest.raises(InputError, match=r"weights: must have shape \(2,\) or \(2, 5\)"):
        accumulate(sums, images, torch.eye(3).expand(2, 3, 3), torch.zeros(2, 2), weights=torch.ones(3))


def test_real_half_maps(shared_data: Path) -> None:
    """Beta-galactosidase (EMPIAR-10204), half sets of RELION's refinement: what those 1,211 images hold.

    With the D2 symmetry a plain back-projection reaches 0.85 at 14 A, 0.65 at 8.7 A and 0.45 at 7.6 A in a mask.
    """
    table = read_particles(shared_data / "betagal" / "betagal_64.star")
    images = torch.from_numpy(ImageStack.from_table(table).read().astype(np.float32))
    columns = (table.defocus_u_angstrom, table.defocus_v_angstrom, table.defocus_angle_deg, table.voltage_kv)
    columns += (table.cs_mm, table.amplitude_contrast, table.phase_shift_deg)
    parameters = torch.from_numpy(np.stack([np.full(len(table), 64), table.pixel_size_angstrom, *columns], 1)).float()
    rotations = torch.from_numpy(rotations_from_angles(table.angles_deg)).float()
    shifts = torch.from_numpy(table.shifts_angstrom / table.pixel_size_angstrom[:, None]).float()
    halves, symmetric = [], []
    twofold = [torch.diag(torch.tensor(sign)) for sign in ([1.0, -1, -1], [-1.0, 1, -1], [-1.0, -1, 1])]
    for half in (1, 2):
        rows = torch.from_numpy(np.flatnonzero(table.random_subset == half))
        given = images[rows], rotations[rows], shifts[rows], -ctf(parameters[rows], 64)
        sums = accumulate(empty_sums(64), *given)
        halves.append(solve(sums))
        for turn in twofold:
            accumulate(sums, given[0], given[1] @ turn, *given[2:])
        symmetric.append(solve(sums))
    published = torch.from_numpy(read_map(shared_data / "betagal" / "betagal_map.mrc").values)
    core = (published > torch.quantile(published.flatten(), 0.98)).float()[None, None]
    wide = torch.nn.functional.max_pool3d(core, 5, 1, 2)
    mask = torch.nn.functional.avg_pool3d(wide, 5, 1, 2)[0, 0]

    def at(volumes: list[Tensor], angstrom: float) -> float:
        fsc = fourier_shell_correlation(*(volume * mask for volume in volumes))
        return float(fsc[round(64 * 3.54 / angstrom)])

    assert at(symmetric, 14) > 0.8 and at(symmetric, 8.7) > 0.65 and at(symmetric, 7.6) > 0.45
    # A quarter of the images, without symmetry: a quarter of the SSNR, FSC / (1 - FSC).
    assert at(halves, 14) > 0.5 and at(halves, 8.7) > 0.3
    agreement = fourier_shell_correlation((symmetric[0] + symmetric[1]) * mask, published * mask)
    assert agreement[1:27].min() > 0.85
