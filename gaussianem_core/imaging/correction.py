"""Correction of original images for comparison with projections: one box and pixel size, no magnification, no odd
phases, white noise.

Preprocess, which writes the stack, and the reconstruction of maps apply it. The particles' shifts change with the
images (:func:`corrected_shifts`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from gaussianem_core.imaging.aberrations import Aberrations, State, odd_phase
from gaussianem_core.imaging.ctf import COLUMNS, LEAST_WEIGHT, ctf, envelope
from gaussianem_core.imaging.resampling import Sampling, resample


class Correction(NamedTuple):
    """Correction of the images of one group; ``odd_zernike`` (T,; rad A^n), ``state`` and ``floor`` as in
    ``aberrations``."""

    sampling: Sampling
    odd_zernike: npt.NDArray[np.float64]
    state: State
    floor: float

    @classmethod
    def of_group(
        cls, aberrations: Aberrations, group: int, box: int, pixel: float, new_box: int, new_pixel: float
    ) -> Correction:
        """The correction of the images of ``group``, from ``box`` pixels of ``pixel`` A to ``new_box`` of ``new_pixel``
        A."""
        sampling = Sampling(box, pixel, new_box, new_pixel)
        if aberrations.magnified[group]:
            (a, b), (c, d) = aberrations.magnification[group].tolist()
            sampling = sampling._replace(magnification=((a, b), (c, d)))
        state = State(int(aberrations.state[group]))
        return cls(sampling, aberrations.odd_zernike[group], state, float(aberrations.floor[group]))


def correct_images(
    images: torch.Tensor, parameters: torch.Tensor, correction: Correction
) -> torch.Tensor:  # (n, d, d), (n, 9 + ...) -> (n, D, D)
    """Images resampled to the new box, without odd phases and with white noise.

    ``parameters`` are the CTF parameters of the new images. Spectra are multiplied by the conjugate of the odd phase
    factor, of modulus 1, which leaves the noise as it is. An image that was multiplied by its CTF is C^2 F + C noise;
    divided by sqrt(C^2 + f^2) it is C^2 / sqrt(C^2 + f^2) F, the transfer that ``ctf`` has for it, plus noise that is
    white again where |C| exceeds f. Sizes are not checked here, see ``resampling.check_sampling``.
    """
    small = resample(images, correction.sampling)
    box, pixel = correction.sampling.new_box, correction.sampling.new_pixel
    factor: torch.Tensor | None = None
    if correction.odd_zernike.any():
        factor = torch.from_numpy(np.exp(-1j * odd_phase(correction.odd_zernike, box, pixel))).to(small.device)
    if correction.state is State.PREMULTIPLIED:
        back = (contrast(parameters, box).square() + correction.floor**2).rsqrt()
        factor = back if factor is None else back * factor
    if parameters.shape[-1] > len(COLUMNS) and (weighted := parameters[:, 14] > 0).any():
        # What its dose and tilt leave of the signal weighs the noise too: that is taken off again.
        even = (envelope(parameters, box).square() + LEAST_WEIGHT**2).rsqrt()
        even = torch.where(weighted[:, None, None], even, torch.ones_like(even))
        factor = even if factor is None else even * factor
    if factor is None:
        return small
    dtype = torch.complex64 if factor.is_complex() else torch.float32
    return torch.fft.irfft2(torch.fft.rfft2(small) * factor.to(dtype), s=(box, box))


def contrast(parameters: torch.Tensor, box: int) -> torch.Tensor:  # (n, 9 + ...) -> (n, D, D//2+1)
    """sin chi: the CTF with RELION's sign, with even aberrations, without envelope, scale and earlier treatment."""
    plain = parameters.clone()
    if plain.shape[-1] > len(COLUMNS):
        plain[:, 9:15] = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    return -ctf(plain, box)


def corrected_shifts(
    shifts_angstrom: npt.NDArray[np.float64], aberrations: Aberrations
) -> npt.NDArray[np.float64]:  # (N, 2) -> (N, 2)
    """Shifts (A) in the corrected images: a point x of the nominal image is at M^-T x."""
    back = np.linalg.inv(aberrations.magnification).swapaxes(1, 2)
    back[~aberrations.magnified] = np.eye(2)
    return np.einsum("nij,nj->ni", back[aberrations.group], shifts_angstrom)
