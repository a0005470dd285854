"""Image formation beyond the plain CTF: aberrations, magnification, envelope, and how images were treated before.

An image of nominal pixel size has at the spatial frequency k (1/A)

    X(k) = exp(i phi(q)) C(q) F(q) + noise,    q = M k,

with F the projection's transform, M the magnification matrix (RELION's ``rlnMagMat``: image frequencies to true ones),
phi the odd (antisymmetrical) phase of beam tilt, trefoil and coma, and C the CTF, whose argument the even aberrations
change (Zivanov et al., IUCrJ 7, 253 (2020)). phi and the even part are sums of Zernike polynomials of q, not scaled to
any aperture: coefficients of degree n are in rad A^n, in RELION's order

    odd   Z(1,-1) Z(1,1) Z(3,-3) Z(3,-1) Z(3,1) Z(3,3) ...      even   Z(0,0) Z(2,-2) Z(2,0) Z(2,2) Z(4,-4) ...

(n, m), m < 0 the sine. cryoSPARC's own coefficients are turned into these.

What of this can be taken off the images is (``correction``): magnification and odd phases. The rest is in the model:
columns behind the nine of ``ctf.npy`` (``ctf.EXTRA``), kept beside it in ``aberrations.npz``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.optics import wavelength_angstrom, zernike_sum
from gaussianem_core.runtime.files import atomic_write
from gaussianem_core.runtime.readers import read_npz

ABERRATIONS = "aberrations.npz"
NEGLIGIBLE_MAGNIFICATION = 1e-4  # moves a pixel at the edge of a box of 200 by a hundredth of itself
FLOOR = 0.05
"""|CTF| below which the division of an image that was multiplied by its CTF is damped (see ``correction``)."""

Floats = npt.NDArray[np.float64]


class State(enum.IntEnum):
    """Earlier treatment of the images: none, multiplied by the CTF's sign, multiplied by the CTF, or divided by it."""

    RAW = 0
    FLIPPED = 1
    PREMULTIPLIED = 2
    CORRECTED = 3


WORDS = {
    State.RAW: "as they were recorded",
    State.FLIPPED: "phase-flipped",
    State.PREMULTIPLIED: "premultiplied by their CTF",
    State.CORRECTED: "corrected for their CTF",
}


@dataclass(frozen=True)
class Aberrations:
    """Aberrations of N particles in G groups.

    Attributes
    ----------
    group : (N,) which of the G groups.
    magnification : (G, 2, 2), from image frequencies to true ones.
    odd_zernike, even_zernike : (G, T) rad A^n, see the module; T may be 0.
    state : (G,) of ``State``.
    bfactor_angstrom2, scale : (N,) envelope exp(-B k^2 / 4) and factor of each image's signal.
    dose : (N,) electrons per A^2 before the image, which have damaged the particle (see ``ctf.envelope``).
    weighted : (N,) 1 for images that were multiplied by this envelope (also where they were not by their CTF).
    floor : (G,) of a premultiplied image's CTF (see ``correction``); 0 for others.
    """

    group: npt.NDArray[np.int32]
    magnification: Floats
    odd_zernike: Floats
    even_zernike: Floats
    state: npt.NDArray[np.int8]
    bfactor_angstrom2: Floats
    scale: Floats
    floor: Floats
    dose: Floats
    weighted: Floats

    @classmethod
    def none(cls, n: int) -> Aberrations:
        """Aberrations of ``n`` plain images: one group, none of anything."""
        no = np.zeros((1, 0))
        one = (np.zeros(n, np.int32), np.eye(2)[None], no, no, np.zeros(1, np.int8))
        return cls(*one, np.zeros(n), np.ones(n), np.zeros(1), np.zeros(n), np.zeros(n))

    def __len__(self) -> int:
        return len(self.group)

    @property
    def magnified(self) -> npt.NDArray[np.bool_]:  # (G,)
        """Groups whose magnification matrix differs from the identity by more than NEGLIGIBLE_MAGNIFICATION."""
        return np.abs(self.magnification - np.eye(2)).max(axis=(1, 2)) > NEGLIGIBLE_MAGNIFICATION

    @property
    def corrected(self) -> npt.NDArray[np.bool_]:  # (G,)
        """Groups of images that were corrected for their CTF."""
        return np.asarray(self.state == State.CORRECTED)

    @property
    def plain(self) -> bool:
        """Whether the nine columns of ``ctf.npy`` describe the images in full, and nothing is to be corrected."""
        return not (self.magnified.any() or self.odd_zernike.any() or self.state.any() or self.extra_columns().size)

    def extra_columns(self) -> npt.NDArray[np.float32]:  # -> (N, 6 + T) or (N, 0)
        """Columns that the CTF needs behind its nine (see ``ctf.EXTRA``); no columns where they would change nothing.

        T even coefficients are included only where one is not 0.
        """
        even = np.where(self.corrected[:, None], 0.0, self.even_zernike)  # no CTF is left whose argument they change
        even = even if even.any() else even[:, :0]
        envelope = self.bfactor_angstrom2.any() or (self.scale != 1).any() or self.dose.any()
        flipped = (self.state == State.FLIPPED).astype(np.float64)
        if not (envelope or even.size or flipped.any() or self.floor.any()):
            return np.zeros((len(self), 0), np.float32)
        of_group = (flipped[self.group], self.floor[self.group])
        first = np.stack([self.bfactor_angstrom2, self.scale, *of_group, self.dose, self.weighted], axis=1)
        return np.concatenate([first, even[self.group]], axis=1).astype(np.float32)

    def rows(self, index: npt.NDArray[np.integer]) -> Aberrations:
        """Aberrations of the particles ``index`` (n,), in that order (repeats allowed), with all groups."""
        of_group = (self.magnification, self.odd_zernike, self.even_zernike, self.state)
        particles = (self.bfactor_angstrom2[index], self.scale[index])
        damage = (self.dose[index], self.weighted[index])
        return Aberrations(self.group[index], *of_group, *particles, self.floor, *damage)


def odd_phase(odd_zernike: npt.ArrayLike, box: int, pixel_angstrom: float) -> Floats:  # (..., T) -> (..., D, D//2+1)
    """Odd phase phi (radians) on the ``rfft2`` grid of D = ``box`` pixels; 0 at the Nyquist frequency, which is its own
    conjugate. Coefficients in rad A^n, see the module."""
    ky, kx = np.fft.fftfreq(box, pixel_angstrom)[:, None], np.fft.rfftfreq(box, pixel_angstrom)
    phase = np.asarray(zernike_sum(np.asarray(odd_zernike, np.float64), kx, ky, odd=True))
    if box % 2 == 0:
        phase[..., box // 2, :] = 0.0
        phase[..., -1] = 0.0
    return phase


# ---- what the files say, as Zernike coefficients -----------------------------------------------------------------


def beam_tilt_zernike(tilt_mrad: npt.ArrayLike, cs_mm: npt.ArrayLike, voltage_kv: npt.ArrayLike) -> Floats:
    """RELION's beam tilt (..., 2; x, y in mrad) as odd coefficients (..., 6; rad A^n), Cs in mm and voltage in kV:
    phi = -2 pi Cs lambda^2 k^2 (k . tilt).

    From rho^3 cos = (Z(3,1) + 2 Z(1,1)) / 3. The sign is RELION's (``rlnBeamTiltX``, ``rlnBeamTiltY``).
    """
    tilt = np.asarray(tilt_mrad, np.float64) * 1e-3
    size = -2 * np.pi * np.asarray(cs_mm, np.float64) * 1e7 * _wavelength(voltage_kv) ** 2
    return _coma(tilt * np.asarray(size)[..., None])


def cryosparc_odd_zernike(shift: Floats, tilt: Floats, trefoil: Floats, voltage_kv: npt.ArrayLike) -> Floats:
    """cryoSPARC's ``ctf/shift_A``, ``tilt_A``, ``trefoil_A`` (..., 2 each; A) as odd coefficients (..., 6; rad A^n).

    phi = lambda^2 k^3 (2 pi (T1 cos + T2 sin) + 2/3 pi (F1 cos 3 theta + F2 sin 3 theta)) - 2 pi S . k, where
    tilt_A is Cs times the beam's tilt.
    """
    squared = _wavelength(voltage_kv)[..., None] ** 2
    found = _coma(2 * np.pi * squared * tilt)
    found[..., 0] -= 2 * np.pi * shift[..., 1]
    found[..., 1] -= 2 * np.pi * shift[..., 0]
    found[..., 2] += 2 / 3 * np.pi * squared[..., 0] * trefoil[..., 1]
    found[..., 5] += 2 / 3 * np.pi * squared[..., 0] * trefoil[..., 0]
    return found


def cryosparc_even_zernike(tetra: Floats, voltage_kv: npt.ArrayLike) -> Floats:  # (..., 4) -> (..., 9)
    """cryoSPARC's ``ctf/tetra_A`` (A) as even coefficients (rad A^n).

    It adds lambda^3 k^4 (2 pi (t1 cos 2 theta + t2 sin 2 theta) + pi/2 (t3 cos 4 theta + t4 sin 4 theta)) to the
    argument that holds pi/2 lambda^3 k^4 Cs, with rho^4 cos 2 theta = (Z(4,2) + 3 Z(2,2)) / 4.
    """
    cubed = _wavelength(voltage_kv) ** 3
    two, four = 2 * np.pi * cubed[..., None] * tetra[..., :2], np.pi / 2 * cubed[..., None] * tetra[..., 2:]
    found = np.zeros((*tetra.shape[:-1], 9))
    found[..., 7], found[..., 3] = two[..., 0] / 4, 3 * two[..., 0] / 4
    found[..., 5], found[..., 1] = two[..., 1] / 4, 3 * two[..., 1] / 4
    found[..., 8], found[..., 4] = four[..., 0], four[..., 1]
    return found


def _wavelength(voltage_kv: npt.ArrayLike) -> Floats:
    return np.asarray(wavelength_angstrom(np.asarray(voltage_kv, np.float64)))


def _coma(size: Floats) -> Floats:  # (..., 2) -> (..., 6)
    """k^3 (size_x cos theta + size_y sin theta) as odd coefficients."""
    found = np.zeros((*size.shape[:-1], 6))
    found[..., 4], found[..., 1] = size[..., 0] / 3, 2 * size[..., 0] / 3
    found[..., 3], found[..., 0] = size[..., 1] / 3, 2 * size[..., 1] / 3
    return found


_DIMENSIONS = {
    "group": 1,
    "magnification": 3,
    "odd_zernike": 2,
    "even_zernike": 2,
    "state": 1,
    "bfactor_angstrom2": 1,
    "scale": 1,
    "floor": 1,
    "dose": 1,
    "weighted": 1,
}


# ---- the file ----------------------------------------------------------------------------------------------------


def save_aberrations(path: Path | str, aberrations: Aberrations) -> None:
    """Write ``aberrations.npz``, the arrays of :class:`Aberrations` by name, atomically."""
    with atomic_write(path) as file:
        np.savez(file, **{name: getattr(aberrations, name) for name in Aberrations.__dataclass_fields__})


def load_aberrations(path: Path | str, count: int) -> Aberrations:
    """Read ``aberrations.npz`` of ``count`` particles.

    Raises InputError if it cannot be read, lacks an array, or holds arrays of other shapes, another number of
    particles, groups that do not exist, or values that are not finite.
    """
    remedy = "Run preprocess again."
    names = frozenset(Aberrations.__dataclass_fields__)
    arrays: dict[str, npt.NDArray[Any]] = dict(read_npz(path, "aberrations", remedy, names))
    if "dose" not in arrays and "group" in arrays:  # of older versions, which knew no tilt series
        arrays |= {name: np.zeros(len(arrays["group"])) for name in ("dose", "weighted")}
    if missing := names - set(arrays):
        raise InputError(str(path), "must hold the aberrations of the particles", f"no {sorted(missing)[0]}", remedy)
    if any(arrays[name].ndim != n for name, n in _DIMENSIONS.items()):
        raise InputError(str(path), "must have arrays of the right dimensions", "others", remedy)
    found = Aberrations(**arrays)
    groups = len(found.magnification)
    per_group = (found.odd_zernike, found.even_zernike, found.state, found.floor)
    if any(
        len(values) != count
        for values in (found.group, found.bfactor_angstrom2, found.scale, found.dose, found.weighted)
    ):
        raise InputError(str(path), f"must have one row for each of the {count} particles", len(found), remedy)
    if any(len(values) != groups for values in per_group) or found.magnification.shape[1:] != (2, 2):
        raise InputError(str(path), "must have one row for each group", [len(v) for v in per_group], remedy)
    if count and not 0 <= found.group.min() <= found.group.max() < groups:
        raise InputError(str(path), f"must name groups from 0 to {groups - 1}", int(found.group.max()), remedy)
    if not all(np.isfinite(getattr(found, name)).all() for name in Aberrations.__dataclass_fields__):
        raise InputError(str(path), "must be finite", "NaN or infinite values", remedy)
    return found
