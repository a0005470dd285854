"""Centred Fourier transforms of images and volumes, cropping, shells and FSC.

The origin in real space is the voxel D // 2 in every dimension (RELION's); spectra are kept in the layout of
``torch.fft.rfftn`` (zero frequency first, last axis halved). All functions take leading batch dimensions.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch


def centred_rfftn(real: torch.Tensor, dims: int) -> torch.Tensor:  # (..., D[, D], D) -> (..., D[, D], D//2+1)
    """Fourier transform over the last ``dims`` axes with the phase origin at index D // 2."""
    axes = tuple(range(-dims, 0))
    return torch.fft.rfftn(torch.fft.ifftshift(real, dim=axes), dim=axes)


def centred_irfftn(spectrum: torch.Tensor, dims: int, box: int) -> torch.Tensor:
    """Inverse of :func:`centred_rfftn`: (..., D[, D], D//2+1) -> (..., D[, D], D), with D = ``box``."""
    axes = tuple(range(-dims, 0))
    return torch.fft.fftshift(torch.fft.irfftn(spectrum, s=(box,) * dims, dim=axes), dim=axes)


def fourier_crop(real: torch.Tensor, box: int, dims: int = 2) -> torch.Tensor:  # (..., D, D) -> (..., box, box)
    """Downsample (or upsample) by cropping (padding) the Fourier transform; the mean value is kept.

    The centre, index D // 2, moves to index box // 2. ``dims`` is 2 or 3. Both boxes must be even (asserted).
    """
    old = real.shape[-1]
    if old == box:
        return real
    assert old % 2 == 0 and box % 2 == 0 and dims > 1
    if box < old:
        # Moving the origin by half an even box multiplies component k by (-1)^k in both boxes: no need to move it.
        half, axes = box // 2, tuple(range(-dims, 0))
        spectrum = torch.fft.rfftn(real, dim=axes)[..., : half + 1]
        for axis in axes[:-1]:
            spectrum = torch.cat([spectrum.narrow(axis, 0, half), spectrum.narrow(axis, old - half, half)], axis)
        return torch.fft.irfftn(spectrum, s=(box,) * dims, dim=axes) * (box / old) ** dims
    spectrum = torch.fft.fftshift(centred_rfftn(real, dims), dim=tuple(range(-dims, -1)))
    start = (box - old) // 2
    padded = spectrum.new_zeros((*spectrum.shape[:-dims], *([box] * (dims - 1)), box // 2 + 1))
    padded[(..., *([slice(start, start + old)] * (dims - 1)), slice(0, old // 2 + 1))] = spectrum
    _share_nyquist(padded, dims, start, old)
    padded = torch.fft.ifftshift(padded, dim=tuple(range(-dims, -1)))
    return centred_irfftn(padded, dims, box) * (box / old) ** dims


def _share_nyquist(padded: torch.Tensor, dims: int, start: int, old: int) -> None:
    """Divide what stood at the old Nyquist frequency, which is its own alias, between +N/2 and -N/2."""
    padded[..., old // 2] *= 0.5  # the halved axis counts it twice from now on
    for axis in range(-dims, -1):
        padded.select(axis, start).mul_(0.5)
        padded.select(axis, start + old).copy_(padded.select(axis, start))


def fourier_resample(volume: torch.Tensor, box: int) -> torch.Tensor:  # (D, D, D) -> (box, box, box)
    """A volume sampled in another box, even or odd, of the same length; its centre moves to index box // 2.

    Trigonometric interpolation, with the frequencies that both boxes hold. The mean value is kept.
    """
    old = volume.shape[-1]
    if old == box:
        return volume
    band = min(old, box)
    k = torch.arange(band // 2 + 1, dtype=torch.float64)
    weight = torch.where(k == 0, 1.0, 2.0)
    if band % 2 == 0:
        weight[-1] = 1.0  # the Nyquist frequency is its own alias
    place = (torch.arange(box, dtype=torch.float64) - box // 2) * old / box + old // 2
    apart = place[:, None] - torch.arange(old, dtype=torch.float64)
    kernel = (torch.cos(2 * torch.pi / old * apart[..., None] * k) * weight).sum(-1) / old
    return torch.einsum("zyx,az,by,cx->abc", volume, *[kernel.to(volume)] * 3)


def frequency_grid(box: int, dims: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """|k| in cycles per pixel for the ``rfftn`` layout: (box, box//2+1) or (box, box, box//2+1)."""
    full = torch.fft.fftfreq(box, device=device)
    half = torch.fft.rfftfreq(box, device=device)
    axes = torch.meshgrid(*([full] * (dims - 1)), half, indexing="ij")
    return torch.stack(axes).square().sum(0).sqrt()


def lowpass(volume: torch.Tensor, pixel_size_angstrom: float, resolution_angstrom: float) -> torch.Tensor:  # (D, D, D)
    """The map times a Gaussian in Fourier space that is one half at ``resolution_angstrom``."""
    box = volume.shape[-1]
    frequency = frequency_grid(box, 3, volume.device).to(volume) * (resolution_angstrom / pixel_size_angstrom)
    return centred_irfftn(centred_rfftn(volume, 3) * torch.exp(-math.log(2) * frequency.square()), 3, box)


def shell_index(box: int, dims: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Nearest shell i (frequency i / box) of every component in the ``rfftn`` layout, shaped as
    :func:`frequency_grid`."""
    return (frequency_grid(box, dims, device) * box).round().long()


def shell_sum(values: torch.Tensor, box: int, dims: int) -> torch.Tensor:  # (..., spectrum) -> (..., box//2)
    """Sum of ``values`` in the ``rfftn`` layout over full shells 0 .. box/2 - 1: components whose conjugates are not
    stored count twice."""
    index = shell_index(box, dims, values.device).flatten()
    weight = torch.full((box // 2 + 1,), 2.0, device=values.device, dtype=values.dtype)
    weight[0] = weight[-1] = 1.0
    flat = (values * weight).flatten(-dims)
    keep = index < box // 2
    out = values.new_zeros((*flat.shape[:-1], box // 2))
    return out.index_add_(-1, index[keep], flat[..., keep])


def fourier_shell_correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:  # (..., D/2)
    """FSC of volumes (..., D, D, D) over shells 0 .. D/2 - 1 (Harauz and van Heel, Optik 73, 1986)."""
    box = first.shape[-1]
    a, b = centred_rfftn(first, 3), centred_rfftn(second, 3)
    cross = shell_sum((a * b.conj()).real, box, 3)
    power = shell_sum(a.abs().square(), box, 3) * shell_sum(b.abs().square(), box, 3)
    return cross / power.clamp_min(torch.finfo(cross.dtype).tiny).sqrt()


def fsc_weight(fsc: torch.Tensor) -> torch.Tensor:  # (..., D/2) -> (..., D/2)
    """Expected correlation of the mean of two half maps with the true map, by shell: sqrt(2 FSC / (1 + FSC)).

    Rosenthal and Henderson (J. Mol. Biol. 333, 2003). 0 where the FSC is negative.
    """
    fsc = fsc.clamp(0, 1)
    return (2 * fsc / (1 + fsc)).sqrt()


def weight_shells(volume: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:  # (D, D, D), (D/2,) -> (D, D, D)
    """A volume with each shell of its transform multiplied by a weight, and by 0 beyond the last."""
    box = volume.shape[-1]
    index = shell_index(box, 3, volume.device)
    factor = torch.cat([weights, weights.new_zeros(1)])[index.clamp_max(box // 2)]
    return centred_irfftn(centred_rfftn(volume, 3) * factor, 3, box)


def fsc_area(fsc: torch.Tensor, box: int) -> torch.Tensor:  # (..., D/2) -> (...)
    """Area under the FSC in cycles per pixel, as CryoBench computes it: trapezoids over the frequencies i / D of
    D = ``box`` voxels, at most (D/2 - 1) / D."""
    frequency = torch.arange(box // 2, device=fsc.device, dtype=fsc.dtype) / box
    return torch.trapezoid(fsc, frequency, dim=-1)


def radial_power(images: torch.Tensor) -> torch.Tensor:  # (..., D, D) -> (..., D/2)
    """Mean power per Fourier component in shells 0 .. D/2 - 1, for the orthonormal transform."""
    box = images.shape[-1]
    power = centred_rfftn(images, 2).abs().square() / box**2
    return shell_sum(power, box, 2) / shell_sum(torch.ones_like(power[(0,) * (power.ndim - 2)]), box, 2)


def half_plane_weight(box: int, device: torch.device | str = "cpu") -> torch.Tensor:  # (D//2+1,)
    """Multiplicity in the full plane of each column of an ``rfft2`` spectrum: 2, but 1 for the first and the last."""
    column = torch.arange(box // 2 + 1, device=device)
    return 1.0 + ((column > 0) & (column < box // 2))  # no value copied from the host: CUDA graphs forbid it


@lru_cache(maxsize=16)
def shells(box: int, device: torch.device | str) -> torch.Tensor:  # (D, D//2+1)
    """Shell of every component of an ``rfft2`` spectrum; the last, D//2, holds the corners too."""
    return shell_index(box, 2, device).clamp_max(box // 2)


@lru_cache(maxsize=16)
def shell_sizes(box: int, device: torch.device | str) -> torch.Tensor:  # (D//2+1,)
    """Number of components of the full plane in each shell of :func:`shells`."""
    weight = half_plane_weight(box, device).expand(box, box // 2 + 1)
    return torch.zeros(box // 2 + 1, device=device).index_add_(0, shells(box, device).flatten(), weight.flatten())
