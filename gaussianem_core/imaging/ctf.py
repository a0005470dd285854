"""The contrast transfer function, from stored parameters to values on the image's Fourier grid.

``ctf.npy`` is (N, 9): box, pixel size (A), defocus U and V (A, underfocus positive), astigmatism angle (degrees),
voltage (kV), spherical aberration (mm), amplitude contrast, phase shift (degrees; NaN means 0). Box and pixel size
are those of the written stack. What else changes an image stands in ``aberrations.npz`` beside it.

Sign: negative at low resolution, so that density times CTF is a dark protein (the published code's choice, kept for
its checkpoints). RELION's particles have white protein: they are multiplied by -1 when read (``invert_contrast`` in
the configuration, the default), which is the same as white protein with RELION's own, opposite sign.

The functions take NumPy arrays or torch tensors alike and give back what they took; only tensors load torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.aberrations import ABERRATIONS, load_aberrations
from gaussianem_core.imaging.optics import wavelength_angstrom, zernike_sum
from gaussianem_core.ranges import refuse_defocus_in_micrometres, refuse_outside, refuse_rows
from gaussianem_core.runtime.readers import read_npy

if TYPE_CHECKING:
    import torch

    Array = TypeVar("Array", np.ndarray, torch.Tensor)

COLUMNS = (
    "box",
    "pixel size",
    "defocus U",
    "defocus V",
    "defocus angle",
    "voltage",
    "spherical aberration",
    "amplitude contrast",
    "phase shift",
)
"""Columns of ``ctf.npy``, by their names in ``ranges.RANGES``."""

EXTRA = ("B-factor (A^2)", "scale", "phase-flipped", "floor", "dose (e/A^2)", "weighted")
"""Columns that may follow, with even Zernike coefficients (rad A^n) behind them (see ``aberrations``)."""

LEAST_WEIGHT = 0.05
"""Envelope below which the division of an image that was multiplied by it is damped (see ``correction``)."""


def ctf(parameters: Array, box: int) -> Array:  # (..., 9) or (..., 15 + T) -> (..., box, box//2+1)
    """CTF on the ``rfft2`` grid (zero frequency first) of images with ``box`` pixels of ``parameters[..., 1]`` A.

    Tensors are computed in float32, arrays in their own precision.
    Rohou and Grigorieff (J. Struct. Biol. 192, 2015), eq. 2-4:
    chi = pi lambda k^2 (df - lambda^2 k^2 Cs / 2) + phase shift + asin(amplitude contrast);  CTF = -sin(chi).

    With the columns ``EXTRA``, B, s, p, f, dose and w, and T even Zernike coefficients, whose sum E(k) is subtracted
    from chi, C = -sin(chi - E), and the transfer is the :func:`envelope` times C; or -|C| with p = 1, for phase-flipped
    images; or, with f > 0, for images that were multiplied by their CTF, -C^2 / sqrt(C^2 + f^2) (see ``correction``).
    With w = 1, for images that were multiplied by their envelope e, that is e^2 / sqrt(e^2 + LEAST_WEIGHT^2).
    """
    return _transfer(parameters, box, slope=False)


def ctf_by_defocus(parameters: Array, box: int) -> Array:  # (..., 9) or (..., 15 + T) -> (..., box, box//2+1)
    """Derivative of :func:`ctf` by a change of both defocus values, per Angstrom."""
    return _transfer(parameters, box, slope=True)


def _transfer(parameters: Array, box: int, slope: bool) -> Array:
    """The CTF, or its derivative by defocus, by the chain rule over what :func:`ctf` says of its columns."""
    xp, where = _library(parameters)
    p: Any = parameters
    if xp is not np:
        p = p.to(xp.float32)
    pixel, df_u, df_v, angle, voltage, cs, contrast, phase = (p[..., i, None, None] for i in range(1, 9))
    ky = xp.fft.fftfreq(box, **where)[:, None] / pixel
    kx = xp.fft.rfftfreq(box, **where)[None, :] / pixel
    k2 = xp.square(kx) + xp.square(ky)
    lam = wavelength_angstrom(voltage)
    # k^2 cos 2(a - angle), a the direction of k: no pixel needs an arc tangent
    twice = 2 * xp.deg2rad(angle)
    across = xp.cos(twice) * (xp.square(kx) - xp.square(ky)) + 2 * xp.sin(twice) * (kx * ky)
    chi = 0.5 * xp.pi * lam * ((df_u + df_v - xp.square(lam) * k2 * cs * 1e7) * k2 + (df_u - df_v) * across)
    chi = chi + xp.deg2rad(xp.nan_to_num(phase)) + xp.arcsin(contrast)
    plain = p.shape[-1] == len(COLUMNS)
    if plain and not slope:
        return -xp.sin(chi)
    by_defocus = xp.pi * lam * k2
    if plain:
        return -xp.cos(chi) * by_defocus
    flipped, floor, weighted = (p[..., i, None, None] for i in (11, 12, 14))
    chi = chi - zernike_sum(p[..., 15:], kx, ky, odd=False)
    value, weight = -xp.sin(chi), _envelope(p, k2, xp)
    twice_weighted = weight * xp.abs(weight) / xp.sqrt(xp.square(weight) + LEAST_WEIGHT**2)
    weight = xp.where(weighted > 0, twice_weighted, weight)
    sign = xp.where(flipped > 0, -xp.sign(value), xp.ones_like(value))
    value = sign * value
    squared = xp.square(value)
    whole = squared + xp.square(floor) + (floor == 0)
    if not slope:
        return weight * xp.where(floor > 0, -squared / xp.sqrt(whole), value)
    change = -xp.cos(chi) * by_defocus * sign
    return weight * xp.where(floor > 0, -value * (whole + xp.square(floor)) / whole**1.5 * change, change)


def envelope(parameters: Array, box: int) -> Array:  # (..., 15 + T) -> (..., box, box//2+1)
    """Envelope of an image's signal, s exp(-B k^2 / 4) exp(-dose / (2 N(k))), on the ``rfft2`` grid.

    N(k) = 0.245 k^-1.665 + 2.81 (e/A^2; k in 1/A) is the dose at which radiation damage has reduced the amplitude to
    exp(-1/2) (Grant and Grigorieff, eLife 4, 2015, eq. 3; as in RELION, for any voltage).
    """
    xp, where = _library(parameters)
    pixel = parameters[..., 1, None, None]
    ky, kx = xp.fft.fftfreq(box, **where)[:, None] / pixel, xp.fft.rfftfreq(box, **where)[None, :] / pixel
    return _envelope(parameters, xp.square(kx) + xp.square(ky), xp)


def _envelope(p: Any, k2: Any, xp: Any) -> Any:
    bfactor, scale, dose = (p[..., i, None, None] for i in (9, 10, 13))
    weight = scale * xp.exp(-0.25 * bfactor * k2)
    critical = 0.245 * xp.where(k2 > 0, k2, xp.ones_like(k2)) ** -0.8325 + 2.81
    return weight * xp.where(k2 > 0, xp.exp(-0.5 * dose / critical), xp.ones_like(k2))


def apply_ctf(images: Array, transfer: Array) -> Array:  # (..., D, D), (..., D, D//2+1)
    """Images (..., D, D) with their Fourier transforms multiplied by ``transfer``."""
    xp, _ = _library(images)
    return xp.fft.irfft2(xp.fft.rfft2(images) * transfer, s=images.shape[-2:])


def _library(array: np.ndarray | torch.Tensor) -> tuple[Any, dict[str, torch.device]]:
    """The module that computes with such an array, and the keywords that make another on its device."""
    if isinstance(array, np.ndarray):
        return np, {}
    return sys.modules["torch"], {"device": array.device}  # there is a tensor, so torch is loaded


def load_ctf(path: Path | str) -> np.ndarray:  # -> (N, 9) or (N, 15 + T) float32
    """CTF parameters of ``ctf.npy``, NaN phase shifts turned into 0, and behind them the columns that
    ``aberrations.npz`` beside it adds (see :func:`ctf`).

    Raises InputError if a file cannot be read, has another shape, or holds values that no microscope has.
    """
    values = read_npy(path, "ctf", "Run preprocess again.")
    if values.ndim != 2 or values.shape[1] != len(COLUMNS) or not len(values):
        raise InputError("ctf", f"must have shape (N, {len(COLUMNS)})", values.shape, "Run preprocess again.")
    values = values.astype(np.float64)
    values[np.isnan(values[:, 8]), 8] = 0.0
    check_parameters(values, path)
    beside = Path(path).with_name(ABERRATIONS)
    if not beside.exists():
        return values.astype(np.float32)
    extra = load_aberrations(beside, len(values)).extra_columns()
    return np.concatenate([values, extra], axis=1).astype(np.float32)


def check_parameters(parameters: np.ndarray, source: object) -> None:  # (N, 9)
    """Raise InputError for CTF parameters that no microscope has (see ``ranges``), or whose CTF is 0 everywhere.

    ``source``: the file that the message names.
    """
    for name, column in zip(COLUMNS, parameters.T, strict=True):
        refuse_outside(name, column, source)
    refuse_defocus_in_micrometres(0.5 * (parameters[:, 2] + parameters[:, 3]), source, "defocus U and V")
    nothing = ~parameters[:, [2, 3, 6, 7, 8]].any(axis=1)
    rule = "must not all be 0 with defocus, spherical aberration and phase shift: such images are empty"
    refuse_rows(nothing, source, "amplitude contrast", rule, parameters[:, 7], "Give the CTF; 1 stands for no CTF.")
