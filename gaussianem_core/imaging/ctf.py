"""The contrast transfer function, from stored parameters to values on the image's Fourier grid.

``ctf.npy`` is (N, 9): box, pixel size (A), defocus U and V (A, underfocus positive), astigmatism angle (degrees),
voltage (kV), spherical aberration (mm), amplitude contrast, phase shift (degrees; NaN means 0). Box and pixel size
are those of the written stack.

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


def wavelength_angstrom(voltage_kv: Array) -> Array:
    """Relativistic electron wavelength in Angstrom (Reimer and Kohl, Transmission Electron Microscopy, eq. 2.5)."""
    volts = voltage_kv * 1e3
    return 12.2643247 / (volts * (1 + 0.978466e-6 * volts)) ** 0.5


def ctf(parameters: Array, box: int) -> Array:  # (..., 9) -> (..., box, box//2+1)
    """CTF on the ``rfft2`` grid (zero frequency first) of images with ``box`` pixels of ``parameters[..., 1]`` A.

    Tensors are computed in float32, arrays in their own precision.
    Rohou and Grigorieff (J. Struct. Biol. 192, 2015), eq. 2-4:
    chi = pi lambda k^2 (df - lambda^2 k^2 Cs / 2) + phase shift + asin(amplitude contrast);  CTF = -sin(chi).
    """
    return -_library(parameters)[0].sin(_phase(parameters, box)[0])


def ctf_by_defocus(parameters: Array, box: int) -> Array:  # (..., 9) -> (..., box, box//2+1)
    """Derivative of :func:`ctf` by a change of both defocus values, per Angstrom."""
    phase, by_defocus = _phase(parameters, box)
    return -_library(parameters)[0].cos(phase) * by_defocus


def _phase(parameters: Array, box: int) -> tuple[Array, Array]:
    """The whole phase of the CTF, and its derivative by defocus, pi lambda k^2."""
    xp, where = _library(parameters)
    p: Any = parameters
    if xp is not np:
        p = p.to(xp.float32)
    pixel, df_u, df_v, angle, voltage, cs, contrast, phase = (p[..., i, None, None] for i in range(1, 9))
    ky = xp.fft.fftfreq(box, **where)[:, None] / pixel
    kx = xp.fft.rfftfreq(box, **where)[None, :] / pixel
    k2 = xp.square(kx) + xp.square(ky)
    lam = wavelength_angstrom(voltage)
    twice = 2 * (xp.arctan2(ky, kx) - xp.deg2rad(angle))
    defocus = 0.5 * (df_u + df_v + (df_u - df_v) * xp.cos(twice))
    by_defocus = xp.pi * lam * k2
    chi = by_defocus * (defocus - 0.5 * xp.square(lam) * k2 * cs * 1e7)
    return chi + xp.deg2rad(xp.nan_to_num(phase)) + xp.arcsin(contrast), by_defocus


def apply_ctf(images: Array, transfer: Array) -> Array:  # (..., D, D), (..., D, D//2+1)
    """Multiply the images' Fourier transforms by ``transfer``."""
    xp, _ = _library(images)
    return xp.fft.irfft2(xp.fft.rfft2(images) * transfer, s=images.shape[-2:])


def _library(array: np.ndarray | torch.Tensor) -> tuple[Any, dict[str, torch.device]]:
    """The module that computes with such an array, and the keywords that make another on its device."""
    if isinstance(array, np.ndarray):
        return np, {}
    return sys.modules["torch"], {"device": array.device}  # there is a tensor, so torch is loaded


def load_ctf(path: Path | str) -> np.ndarray:  # -> (N, 9) float32
    """CTF parameters of ``ctf.npy``, NaN phase shifts turned into 0.

    Raises InputError if the file cannot be read, has another shape, or holds values that no microscope has.
    """
    values = read_npy(path, "ctf", "Run preprocess again.")
    if values.ndim != 2 or values.shape[1] != len(COLUMNS) or not len(values):
        raise InputError("ctf", f"must have shape (N, {len(COLUMNS)})", values.shape, "Run preprocess again.")
    values = values.astype(np.float64)
    values[np.isnan(values[:, 8]), 8] = 0.0
    check_parameters(values, path)
    return values.astype(np.float32)


def check_parameters(parameters: np.ndarray, source: object) -> None:  # (N, 9)
    """Raise InputError for CTF parameters that no microscope has (see ``ranges``), or that make a CTF of 0."""
    for name, column in zip(COLUMNS, parameters.T, strict=True):
        refuse_outside(name, column, source)
    refuse_defocus_in_micrometres(0.5 * (parameters[:, 2] + parameters[:, 3]), source, "defocus U and V")
    nothing = ~parameters[:, [2, 3, 6, 7, 8]].any(axis=1)
    rule = "must not all be 0 with defocus, spherical aberration and phase shift: such images are empty"
    refuse_rows(nothing, source, "amplitude contrast", rule, parameters[:, 7], "Give the CTF; 1 stands for no CTF.")
