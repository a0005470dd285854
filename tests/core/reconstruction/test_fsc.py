"""FSC of half maps, what a mask adds to it, sharpening and local resolution: against maps whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gaussianem_core.analysis.local_resolution import local_resolution
from gaussianem_core.errors import InputError
from gaussianem_core.imaging.fourier import centred_rfftn, fourier_shell_correlation, frequency_grid, weight_shells
from gaussianem_core.reconstruction.fsc import compare_half_maps, randomise_phases, resolution
from gaussianem_core.reconstruction.half_volumes import HalfVolumes, cut_volumes
from gaussianem_core.reconstruction.sharpening import guinier, sharpen
from gaussianem_core.reconstruction.solvent_mask import automatic_mask

BOX, PIXEL = 48, 2.0


def noise(seed: int, box: int = BOX) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((box,) * 3, np.float32))


def ball(radius: float, box: int = BOX, at: tuple[float, float, float] = (0, 0, 0)) -> torch.Tensor:
    axis = torch.arange(box) - box // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return ((z - at[0]).square() + (y - at[1]).square() + (x - at[2]).square() <= radius**2).float()


def smooth(volume: torch.Tensor, reach: float) -> torch.Tensor:
    """Nothing left beyond ``reach`` (cycles per pixel)."""
    shell = torch.arange(volume.shape[-1] // 2) / volume.shape[-1]
    return weight_shells(volume, (shell < reach).float())


def test_resolution_is_where_the_curve_crosses() -> None:
    curve = torch.tensor([1.0, 1.0, 0.9, 0.5, 0.1, 0.3, 0.0])
    part = (0.5 - 0.143) / (0.5 - 0.1)
    assert resolution(curve, 14, 2.0) == pytest.approx(28 / (3 + part))
    assert resolution(torch.ones(7), 14, 2.0) == 4.0
    assert resolution(torch.zeros(7), 14, 2.0) == 28.0


def test_random_phases_keep_amplitudes_and_what_is_before() -> None:
    volume = noise(0)
    changed = randomise_phases(volume, 10, np.random.default_rng(1))
    a, b = centred_rfftn(volume, 3), centred_rfftn(changed, 3)
    shell = (frequency_grid(BOX, 3) * BOX).round()
    torch.testing.assert_close(a[shell < 10], b[shell < 10], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(a.abs(), b.abs(), rtol=1e-3, atol=1e-2)
    assert fourier_shell_correlation(volume, changed)[12:].abs().max() < 0.2


def test_what_a_tight_mask_adds_is_taken_off_and_what_is_real_stays() -> None:
    # Signal to a third of the frequencies, independent noise at all; a mask that is hard and narrow.
    signal = 40 * smooth(noise(2) * ball(10), 0.17)
    first, second = signal + noise(3), signal + noise(4)
    mask = ball(10) * (noise(5) > 0).float()
    found = compare_half_maps(first, second, mask, PIXEL, seed=0)
    beyond = slice(13, None)
    assert found.masked[beyond].mean() > 0.1  # the mask alone mixes signal into shells that have none
    assert found.corrected[beyond].abs().mean() < 0.5 * found.masked[beyond].mean()
    assert found.masked[3:7].min() > 0.8
    torch.testing.assert_close(found.corrected[: found.randomised_from], found.masked[: found.randomised_from])


def test_guinier_finds_the_b_factor_and_sharpening_takes_it_off() -> None:
    bfactor, box, pixel = 90.0, 64, 1.5
    shell = torch.arange(box // 2)
    squared = (shell / (box * pixel)).square()
    flat = noise(6, box)
    fallen = weight_shells(flat, torch.exp(-bfactor / 4 * squared))
    found = guinier(fallen, torch.ones(box // 2), pixel)
    assert found.bfactor_angstrom2 == pytest.approx(-bfactor, abs=5)
    back = sharpen(fallen, torch.ones(box // 2), -bfactor, pixel)
    inside = weight_shells(flat, torch.ones(box // 2))
    torch.testing.assert_close(back, inside, rtol=1e-3, atol=5e-3)
    # Beyond the resolution nothing is left; at FSC 0.5 the weight is sqrt(2/3).
    fsc = torch.where(shell < 20, 0.5, 0.05)
    kept = sharpen(flat, fsc, 0.0, pixel)
    power = [centred_rfftn(v, 3).abs().square() for v in (kept, flat)]
    near = (frequency_grid(box, 3) * box).round()
    assert power[0][near >= 20].max() < 1e-6
    assert (power[0][near == 15].sum() / power[1][near == 15].sum()) == pytest.approx(2 / 3, rel=1e-3)


def test_no_b_factor_where_too_few_shells_are_beyond_10_angstrom() -> None:
    assert guinier(noise(7), torch.ones(BOX // 2), 6.0).bfactor_angstrom2 is None


def test_local_resolution_tells_the_sharp_half_from_the_blurred_one() -> None:
    box = 64
    left, right = ball(9, box, (0, 0, -18)), ball(9, box, (0, 0, 18))
    signal = 3 * noise(8, box) * left + 6 * smooth(noise(9, box) * right, 0.2)
    first, second = signal + noise(10, box), signal + noise(11, box)
    whole = 0.5 * (first + second)
    found = local_resolution(first, second, whole, PIXEL, 4.0)
    sharp = found.resolution_angstrom[ball(4, box, (0, 0, -18)) > 0].median()
    blurred = found.resolution_angstrom[ball(4, box, (0, 0, 18)) > 0].median()
    assert sharp < 4.6  # Nyquist: 4 A
    assert 8.0 < blurred < 12.5  # the signal ends at 10 A
    # The filtered map loses the noise where it is blurred, and keeps the signal where it is sharp.
    error, before = (smooth(volume - signal, 0.45).square() for volume in (found.filtered, whole))
    assert error[right > 0].mean() < 0.5 * before[right > 0].mean()
    assert error[left > 0].mean() < 1.5 * before[left > 0].mean()


def test_a_mask_is_made_around_the_molecule() -> None:
    molecule = 4 * smooth(ball(11, at=(2, -3, 4)), 0.25) + 0.8 * noise(12)
    mask = automatic_mask(molecule, PIXEL, 8.0)
    assert mask.dtype == np.float32 and mask.min() == 0 and mask.max() == 1
    inside = ball(11, at=(2, -3, 4)).numpy() > 0
    assert mask[inside].min() == 1 and (mask == 1).mean() < 2.2 * inside.mean()
    with pytest.raises(InputError, match="must show a molecule"):
        automatic_mask(torch.zeros(BOX, BOX, BOX), PIXEL, 8.0)


def test_maps_are_cut_and_filled_about_their_centre() -> None:
    point = torch.zeros(16, 16, 16)
    point[8, 8, 8] = 1
    halves = HalfVolumes(point, point, point, torch.ones(8))
    for box in (10, 16, 22):
        cut = cut_volumes(halves, box)
        assert cut.whole.shape == (box,) * 3 and float(cut.whole[box // 2, box // 2, box // 2]) == 1
        assert len(cut.fsc) == box // 2
