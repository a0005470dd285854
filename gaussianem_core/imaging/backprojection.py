"""Particle images to a volume: CTF-weighted back-projection into Fourier space.

Every Fourier component Y_i of an image lies at a place k_i on a central section of the volume's transform F. The
products of weight, CTF and component, and of weight and CTF squared, are spread trilinearly (kernel K) over the eight
nearest points of a grid that is ``PADDING`` times finer than the volume's own. `solve` finds at each grid point g

    F(g) = (sum_i K w_i C_i Y_i - grad F(g) . sum_i K w_i C_i^2 (k_i - g)) / (sum_i K w_i C_i^2 + 1 / tau^2)

transforms back, cuts out the volume and divides by the transform of K. Without the gradient this is the reconstruction
of RELION (Scheres, J. Mol. Biol. 415, 2012, eq. 5). The gradient says that the components around a grid point do not
lie about it evenly: a local linear fit in place of a local mean, which leaves a quarter of the error. The gradient
comes from the volume itself, so that this is repeated a few times.

Any number of images is added in constant memory. The sums are plain tensors of shape (P, P, P//2+1, 6), P = ``PADDING``
x box: real and imaginary part of the numerator, weight, and weighted offsets in x, y and z, in the layout of ``rfftn``
over (z, y, x), in a frame whose origin is the voxel box // 2. Sums of several devices or half sets add up.

`insert_reference` is the definition, in plain torch and any precision; Triton (CUDA) and numba (CPU) do the same in
`kernels`.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.fourier import centred_irfftn, centred_rfftn, frequency_grid, shells
from gaussianem_core.imaging.projection import choose_backend
from gaussianem_core.options import Projector

PADDING = 2
"""Fineness of the Fourier grid: the volume lies in the middle of a box twice as large."""
SUMS = 6
"""Number of sums at each point of the grid."""
WEIGHT_FLOOR = 1e-3
"""Least weight of a component, as a share of its shell's mean: where few images lie, noise must not be amplified."""
CORRECTIONS = 2
"""Rounds of the gradient's correction; a third does not change the FSC."""


def empty_sums(box: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Sums of no images, (P, P, P//2+1, 6), for volumes of ``box`` voxels. Raises InputError for an odd box or one
    below 4."""
    if box % 2 or box < 4:
        raise InputError("box", "must be even and at least 4", box, "Crop or pad the images.")
    size = PADDING * box
    return torch.zeros(size, size, size // 2 + 1, SUMS, device=device, dtype=dtype)


def accumulate(
    sums: Tensor,  # (P, P, P//2+1, 6)
    images: Tensor,  # (B, D, D)
    rotations: Tensor,  # (B, 3, 3)
    shifts: Tensor,  # (B, 2)
    ctf: Tensor | None = None,  # (B, D, D//2+1)
    weights: Tensor | None = None,  # (B,) or (B, D//2+1)
    *,
    backend: Projector = "auto",
) -> Tensor:  # (P, P, P//2+1, 6)
    """Add images to ``sums``, in place, and return it.

    Parameters
    ----------
    sums : of `empty_sums` for the images' box.
    images : indexed [y, x], with white protein where ``ctf`` is positive at low resolution (RELION's sign).
    rotations : r_image = A r_volume. shifts : x, y in pixels; the particle sits at minus its shift (see `pose`).
    ctf : values on the ``rfft2`` grid; None stands for 1.
    weights : one for each image, or for each of its shells 0 .. D/2: inverse noise power, or 0 to leave it out.
        None stands for 1.
    backend : "auto" takes Triton on CUDA, numba for float32 on the CPU, else the reference.

    Raises
    ------
    InputError : shapes that do not fit, or a backend that cannot run here.
    """
    _check(sums, images, rotations, shifts, ctf, weights)
    values, weight = weighted_spectra(images, shifts, ctf, weights)
    insert_spectra(sums, values, weight, rotations, backend)
    return sums


def insert_spectra(
    sums: Tensor,  # (P, P, P//2+1, 6)
    values: Tensor,  # (B, D, D//2+1) complex
    weight: Tensor,  # (B, D, D//2+1)
    rotations: Tensor,  # (B, 3, 3)
    backend: Projector = "auto",
) -> None:
    """Add the results of :func:`weighted_spectra` to ``sums``, in place; see :func:`accumulate`.

    Raises InputError for a backend that cannot run here or cannot insert.
    """
    chosen = choose_backend(backend, sums)
    if chosen == "reference":
        insert_reference(sums, values, weight, rotations)
    elif chosen == "triton":
        from gaussianem_core.kernels.backprojection_triton import insert_triton

        insert_triton(sums, values, weight, rotations, *inside_circle(values.shape[-2], sums.device), PADDING)
    elif chosen == "cpu":
        from gaussianem_core.kernels.backprojection_numba import insert_cpu

        insert_cpu(sums, values, weight, rotations, *inside_circle(values.shape[-2], sums.device), PADDING)
    else:
        raise InputError("backend", "must not be xray for back-projection", backend, "Use auto.")


def weighted_spectra(
    images: Tensor, shifts: Tensor, ctf: Tensor | None, weights: Tensor | None
) -> tuple[Tensor, Tensor]:  # -> (B, D, D//2+1) complex, (B, D, D//2+1)
    """Numerator and denominator of each component: w C Y, with the particle moved to the centre, and w C^2.

    Arguments as for :func:`accumulate`.
    """
    box = images.shape[-1]
    spectra = centred_rfftn(images, 2)
    y = torch.fft.fftfreq(box, device=images.device, dtype=images.dtype)
    x = torch.fft.rfftfreq(box, device=images.device, dtype=images.dtype)
    turn = -2 * torch.pi * (shifts[:, :1, None] * x + shifts[:, 1:, None] * y[:, None])
    spectra = spectra * torch.polar(torch.ones_like(turn), turn)
    weight = torch.ones_like(turn)
    if weights is not None and weights.ndim == 1:
        weight = weight * weights[:, None, None]
    elif weights is not None:
        weight = weights[:, shells(box, images.device)]
    if ctf is not None:
        spectra, weight = spectra * (weight * ctf), weight * ctf.square()
    else:
        spectra = spectra * weight
    return spectra, weight


@lru_cache(maxsize=16)
def inside_circle(box: int, device: torch.device | str) -> tuple[Tensor, Tensor]:  # -> (M,), (M,)
    """Frequencies y, x (in units of 1 / box) of the components that are inserted: below Nyquist, each pair once."""
    y = torch.fft.fftfreq(box, 1 / box, device=device)[:, None].expand(box, box // 2 + 1)
    x = torch.arange(box // 2 + 1, device=device).expand_as(y)
    once = (x > 0) | (y >= 0)  # the column x = 0 holds each component and its conjugate
    chosen = once & (x.square() + y.square() < (box / 2) ** 2)
    return y[chosen].long(), x[chosen].long()


def insert_reference(sums: Tensor, values: Tensor, weight: Tensor, rotations: Tensor) -> None:
    """Spread components over ``sums`` (P, P, P//2+1, 6), in place, with trilinear weights.

    ``values`` (B, D, D//2+1) complex and ``weight`` (B, D, D//2+1) of :func:`weighted_spectra`; ``rotations``
    (B, 3, 3).
    """
    box, size = values.shape[-2], sums.shape[0]
    y, x = inside_circle(box, values.device)
    # Frequency (x, y, 0) of the image is frequency A^T (x, y, 0) of the volume.
    places = PADDING * (x[:, None] * rotations[:, None, 0] + y[:, None] * rotations[:, None, 1])  # (B, M, 3), x y z
    flipped = places[..., 0] < 0  # only the half x >= 0 is kept: elsewhere the conjugate stands for the component
    places = torch.where(flipped[..., None], -places, places)
    real, imaginary = torch.view_as_real(values[:, y, x]).unbind(-1)
    component = torch.stack([real, torch.where(flipped, -imaginary, imaginary), weight[:, y, x]], dim=-1)
    first = places.floor()
    flat = sums.view(-1, SUMS)
    for corner in range(8):
        step = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2], device=places.device)
        offset = places - (first + step)
        share = (1 - offset.abs()).prod(-1, keepdim=True)
        i, j, k = (first.long() + step).unbind(-1)
        index = (k % size * size + j % size) * (size // 2 + 1) + i
        added = torch.cat([component, component[..., 2:] * offset], dim=-1) * share
        flat.index_add_(0, index.flatten(), added.to(sums.dtype).flatten(0, 1))


def solve(
    sums: Tensor, inverse_prior: Tensor | None = None, own_share: Tensor | None = None
) -> Tensor:  # (P, P, P//2+1, 6) -> (D, D, D)
    """The volume that the sums describe, [z, y, x]: the sum of its voxels along the beam gives the images.

    Parameters
    ----------
    inverse_prior : (D//2+1,) 1 / tau^2 by shell, tau^2 being the power of a component of the volume's ``rfftn`` in
        units of the noise that the weights are the inverse of (see `inverse_prior`); None: no prior.
    own_share : (D//2+1,) by shell, from 0 to 1: a component is divided by so much of its own weight and the rest of
        its shell's mean weight. With the FSC as share this is the prior's Wiener filter, tau^2 = FSC / (1 - FSC) x mean
        noise power, scaled so that no shell is attenuated: components that few images show bring no noise. None: its
        own weight alone.
    """
    size = sums.shape[0]
    box = size // PADDING
    numerator, weight, *offsets = symmetric(sums)
    shell = fine_shells(size, sums.device)
    mean = shell_means(weight, shell)[shell]
    weight = torch.maximum(weight, WEIGHT_FLOOR * mean)
    place = torch.arange(size // 2 + 1, device=sums.device) // PADDING
    if own_share is not None:
        weight = mean + own_share.to(sums)[place][shell] * (weight - mean)
    del mean
    if inverse_prior is not None:
        # PADDING^3 points of the grid stand for each independent component.
        weight = weight + (inverse_prior.to(sums) / PADDING**3)[place][shell]
    inside = (shell < size // 2) & (weight > 0)
    factor = torch.where(inside, 1 / torch.where(inside, weight, 1), 0)
    start = size // 2 - box // 2
    middle = (slice(start, start + box),) * 3
    axis = torch.arange(box, device=sums.device, dtype=sums.dtype) - box // 2
    fall = torch.sinc(axis / size).square()
    fall = fall[:, None, None] * fall[:, None] * fall
    spectrum = numerator * factor
    volume = centred_irfftn(spectrum, 3, size)[middle] / fall
    for _ in range(CORRECTIONS):
        spectrum = numerator.clone()
        for offset, along in zip(offsets, (axis, axis[:, None], axis[:, None, None])):  # x, y, z
            moment = sums.new_zeros(size, size, size)
            moment[middle] = volume * along
            # The gradient of the transform is the transform of the volume times -2 pi i x.
            spectrum += centred_rfftn(moment, 3) * (offset * (2j * torch.pi / size))
        volume = centred_irfftn(spectrum * factor, 3, size)[middle] / fall
    return volume


def inverse_prior(sums: Tensor, fsc: Tensor) -> Tensor:  # (P, P, P//2+1, 6), (D//2,) -> (D//2+1,)
    """1 / tau^2 by shell from the FSC of half maps, for `solve`: tau^2 = FSC / (1 - FSC) x mean noise power
    (Scheres, J. Struct. Biol. 180, 2012, eq. 12).

    ``sums`` are those of one half set; the result serves both halves and their total.
    """
    shell = fine_shells(sums.shape[0], sums.device)
    mean = PADDING**3 * shell_means(symmetric(sums)[1], shell)[::PADDING]
    known = fsc.to(sums).clamp(1e-3, 1 - 1e-6)
    return mean * torch.cat([(1 - known) / known, known.new_full((1,), 1e3)])


def fine_shells(size: int, device: torch.device | str) -> Tensor:  # -> (P, P, P//2+1)
    """Nearest shell of each point of the fine grid of P = ``size`` points; the last, P//2, holds the corners too."""
    return (frequency_grid(size, 3, device) * size).round().long().clamp_max(size // 2)


def shell_means(values: Tensor, shell: Tensor) -> Tensor:  # (P, P, P//2+1) x 2 -> (P//2+1,)
    """Mean over the points of each shell."""
    count = torch.bincount(shell.flatten(), minlength=len(values) // 2 + 1)
    return torch.bincount(shell.flatten(), values.flatten(), minlength=len(count)).to(values) / count


def symmetric(sums: Tensor) -> tuple[Tensor, ...]:  # -> 5 x (P, P, P//2+1), the first complex
    """Numerator, weight and offsets x, y, z, with the two halves of the plane x = 0 added up (Hermitian symmetry)."""
    parts = (torch.complex(sums[..., 0], sums[..., 1]), *(sums[..., i].clone() for i in range(2, SUMS)))
    for number, part in enumerate(parts):
        plane = part[..., 0]
        mirrored = plane.flip(0, 1).roll((1, 1), (0, 1)).conj().resolve_conj()
        plane += mirrored if number < 2 else -mirrored  # the conjugate lies on the other side of its grid point
    return parts


def _check(
    sums: Tensor, images: Tensor, rotations: Tensor, shifts: Tensor, ctf: Tensor | None, weights: Tensor | None
) -> None:
    box = images.shape[-1]
    size, count = PADDING * box, len(images)
    shapes: tuple[tuple[str, Tensor | None, tuple[tuple[int, ...], ...]], ...] = (
        ("images", images, ((count, box, box),)),
        ("sums", sums, ((size, size, size // 2 + 1, SUMS),)),
        ("rotations", rotations, ((count, 3, 3),)),
        ("shifts", shifts, ((count, 2),)),
        ("ctf", ctf, ((count, box, box // 2 + 1),)),
        ("weights", weights, ((count,), (count, box // 2 + 1))),
    )
    for name, tensor, allowed in shapes:
        if tensor is not None and tuple(tensor.shape) not in allowed:
            wanted = " or ".join(map(str, allowed))
            raise InputError(name, f"must have shape {wanted}", tuple(tensor.shape), "Give one entry for each image.")
