"""Centred transforms, cropping, shells and FSC."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gaussianem_core.imaging.fourier import (
    centred_irfftn,
    centred_rfftn,
    fourier_crop,
    fourier_resample,
    fourier_shell_correlation,
    frequency_grid,
    fsc_area,
    radial_power,
    shell_index,
    shell_sum,
)


def spot(box: int, centre: tuple[float, ...], sigma: float) -> torch.Tensor:
    """A Gaussian at ``centre`` voxels from D // 2 (x, y[, z]), array indexed [z,] y, x."""
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    parts = [torch.exp(-((axis - c) ** 2) / (2 * sigma**2)) for c in centre[::-1]]
    out = parts[0]
    for part in parts[1:]:
        out = out[..., None] * part
    return out


@pytest.mark.parametrize("box", [20, 21, 32, 33, 40])
def test_resampled_volume_is_the_same_function(box: int) -> None:
    """A Gaussian off centre, wide enough for the coarsest box, is the Gaussian of the other box's voxels."""
    old = 32
    volume = spot(old, (2.0, -3.5, 1.0), 2.4)
    expected = spot(box, tuple(np.array([2.0, -3.5, 1.0]) * box / old), 2.4 * box / old)
    torch.testing.assert_close(fourier_resample(volume, box), expected, atol=2e-3, rtol=0)
    noise = torch.randn(old, old, old, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if box > old and box % 2 == 0:
        torch.testing.assert_close(fourier_resample(noise, box), fourier_crop(noise, box, dims=3))
    assert float(fourier_resample(noise, box).mean()) == pytest.approx(float(noise.mean()), abs=1e-12)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("box", [12, 15])
def test_centred_transform(dims: int, box: int) -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(2, *[box] * dims, generator=generator, dtype=torch.float64)
    spectrum = centred_rfftn(real, dims)
    torch.testing.assert_close(centred_irfftn(spectrum, dims, box), real)
    # by definition: sum of f(r) exp(-2 pi i k r), r counted from D // 2
    axis = np.arange(box) - box // 2
    k = (1, 2, 3)[:dims]
    phases = [np.exp(-2j * np.pi * kk * axis / box) for kk in k]
    value = real[1].numpy()
    for phase in phases[::-1]:
        value = value @ phase
    assert spectrum[1][k].item() == pytest.approx(value, abs=1e-9)
    point = torch.zeros([box] * dims)
    point[(box // 2,) * dims] = 1
    torch.testing.assert_close(centred_rfftn(point, dims), torch.ones_like(centred_rfftn(point, dims)))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("old", "new"), [(32, 20), (32, 16), (20, 32)])
def test_crop_keeps_centre_mean_and_values(dims: int, old: int, new: int) -> None:
    # A band-limited spot off centre: at the same place in world units, with the same values, in the other box.
    centre = np.array([2.0, -3.0, 1.0])[:dims]
    scale = new / old
    sigma = 1.3 * old / min(old, new)
    image = spot(old, tuple(centre), sigma)
    out = fourier_crop(image, new, dims)
    assert out.shape == (new,) * dims
    # 1e-3: a Gaussian 1.3 pixels wide keeps 2e-4 of its transform at Nyquist
    torch.testing.assert_close(out, spot(new, tuple(centre * scale), sigma * scale), atol=1e-3, rtol=0)
    noise = torch.randn([3] + [old] * dims, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        fourier_crop(noise, new, dims).flatten(1).mean(1), noise.flatten(1).mean(1), atol=1e-12, rtol=0
    )


def test_crop_of_itself_and_round_trip() -> None:
    image = torch.randn(4, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert fourier_crop(image, 16) is image
    # interpolation keeps the samples, whatever stands at Nyquist
    large = fourier_crop(image, 32)
    torch.testing.assert_close(large[:, ::2, ::2], image, atol=1e-9, rtol=0)
    below_nyquist = fourier_crop(fourier_crop(image, 12), 16)
    torch.testing.assert_close(fourier_crop(fourier_crop(below_nyquist, 32), 16), below_nyquist, atol=1e-9, rtol=0)


def test_white_noise_stays_white() -> None:
    # Every component is kept as it is; the mean over more pixels makes the power (new/old)^2 times as large.
    noise = torch.randn(400, 32, 32, generator=torch.Generator().manual_seed(3))
    cropped = fourier_crop(noise, 16)
    np.testing.assert_allclose(radial_power(cropped).mean(0)[1:], 0.25, rtol=0.05)


def test_shells_cover_what_numpy_covers() -> None:
    box = 10
    k = np.fft.fftfreq(box) * box
    radius = np.sqrt(sum(g**2 for g in np.meshgrid(k, k, k, indexing="ij")))
    expected = [np.sum(np.round(radius) == i) for i in range(box // 2)]
    ones = torch.ones(box, box, box // 2 + 1)
    np.testing.assert_array_equal(shell_sum(ones, box, 3), expected)
    assert shell_index(box, 3)[0, 0, 3] == 3 and frequency_grid(box, 2)[0, 5] == 0.5


def test_fsc_against_numpy() -> None:
    generator = np.random.default_rng(0)
    a = generator.normal(size=(12, 12, 12))
    b = a + 0.7 * generator.normal(size=a.shape)
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    k = np.fft.fftfreq(12) * 12
    shell = np.round(np.sqrt(sum(g**2 for g in np.meshgrid(k, k, k, indexing="ij"))))
    expected = [
        (fa * fb.conj())[shell == i].sum().real
        / np.sqrt((abs(fa) ** 2)[shell == i].sum() * (abs(fb) ** 2)[shell == i].sum())
        for i in range(6)
    ]
    np.testing.assert_allclose(fourier_shell_correlation(torch.from_numpy(a), torch.from_numpy(b)), expected)


def test_fsc_of_a_round_trip() -> None:
    volume = torch.randn(2, 16, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    fsc = fourier_shell_correlation(volume, 5 * centred_irfftn(centred_rfftn(volume, 3), 3, 16))
    torch.testing.assert_close(fsc, torch.ones_like(fsc))
    # CryoBench's area: at most (D/2 - 1) / D
    torch.testing.assert_close(fsc_area(fsc, 16), torch.full((2,), 7 / 16, dtype=torch.float64))
    assert fsc_area(fourier_shell_correlation(volume, -volume), 16).tolist() == pytest.approx([-7 / 16] * 2)
    # a shift that is no multiple of the sampling of a shell makes the correlation fall with frequency
    moved = fourier_shell_correlation(volume[0], volume[0].roll(1, dims=0))
    assert moved[0] == pytest.approx(1) and moved[7] < moved[3] < moved[1] < 1


def test_empty_shells_are_zero_not_nan() -> None:
    flat = torch.ones(8, 8, 8)
    fsc = fourier_shell_correlation(flat, flat)
    assert fsc[0] == pytest.approx(1) and (fsc[1:] == 0).all()
