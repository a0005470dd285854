"""Particle images from points, in NumPy alone: RELION's definitions of every column that changes an image.

Nothing of the product is used: a projection's transform is the sum over the points at any frequency, so that
magnification is exact; CTF, aberrations and magnification are written out as RELION's source defines them (obs_model,
ctf.h, Zernike: see the comments).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import mrcfile
import numpy as np

Array = np.ndarray


def lopsided_points(count: int = 120, reach_angstrom: float = 30.0, seed: int = 7) -> tuple[Array, Array]:
    """Points (P, 3) in Angstrom and weights (P,) of a molecule without any symmetry."""
    r = np.random.default_rng(seed)
    points = r.normal(size=(count, 3))
    points *= (r.random(count) ** (1 / 3) / np.linalg.norm(points, axis=1))[:, None] * [1.0, 0.7, 0.5] * reach_angstrom
    points[: count // 6] += np.array([0.0, 0.35, 0.2]) * reach_angstrom
    weights = r.uniform(0.5, 1.5, count)
    return points - np.average(points, axis=0, weights=weights), weights


def rotation(angles_deg: Array) -> Array:  # (3,) -> (3, 3)
    """Rz(psi) Ry(tilt) Rz(rot), passive, as RELION's Euler_angles2matrix."""

    def turn(angle: float, axis: int) -> Array:
        c, s, m = np.cos(angle), np.sin(angle), np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        sign = -1 if axis == 1 else 1
        m[i, i], m[i, j], m[j, i], m[j, j] = c, sign * s, -sign * s, c
        return m

    rot, tilt, psi = np.deg2rad(angles_deg)
    return turn(psi, 2) @ turn(tilt, 1) @ turn(rot, 2)


def wavelength(kilovolts: float) -> float:
    """Of electrons, Angstrom."""
    volts = kilovolts * 1e3
    return float(12.2643247 / np.sqrt(volts * (1.0 + volts * 0.978466e-6)))


@dataclass
class Optics:
    """One optics group. ``odd``, ``even``: phases in radians as functions of kx, ky (1/A)."""

    pixel: float = 2.0
    box: int = 64
    kilovolts: float = 300.0
    cs_mm: float = 2.7
    contrast: float = 0.1
    phase_shift_deg: float = 0.0
    magnification: Array = field(default_factory=lambda: np.eye(2))
    odd: Callable[[Array, Array], Array] = lambda kx, ky: 0 * kx
    even: Callable[[Array, Array], Array] = lambda kx, ky: 0 * kx
    state: str = "raw"
    """raw, flipped, premultiplied or corrected."""


def beam_tilt(x_mrad: float, y_mrad: float, kilovolts: float = 300.0, cs_mm: float = 2.7) -> Callable[..., Array]:
    """RELION (tilt_helper, insertTilt): phase -2 pi Cs lambda^2 k^2 (k . tilt)."""
    size = -2 * np.pi * cs_mm * 1e7 * wavelength(kilovolts) ** 2 * 1e-3
    return lambda kx, ky: size * (kx**2 + ky**2) * (kx * x_mrad + ky * y_mrad)


def odd_zernike(c: Mapping[int, float]) -> Callable[..., Array]:
    """Coefficients by RELION's index: Z(1,-1), Z(1,1), Z(3,-3), Z(3,-1), Z(3,1), Z(3,3), written out."""
    terms: list[Callable[[Array, Array], Array]] = [
        lambda x, y: y,
        lambda x, y: x,
        lambda x, y: 3 * x**2 * y - y**3,
        lambda x, y: (3 * (x**2 + y**2) - 2) * y,
        lambda x, y: (3 * (x**2 + y**2) - 2) * x,
        lambda x, y: x**3 - 3 * x * y**2,
    ]
    return lambda kx, ky: sum(value * terms[i](kx, ky) for i, value in c.items())  # type: ignore[return-value]


def even_zernike(c: Mapping[int, float]) -> Callable[..., Array]:
    """Z(0,0), Z(2,-2), Z(2,0), Z(2,2), Z(4,-4), Z(4,-2), Z(4,0), Z(4,2), Z(4,4), written out."""
    terms: list[Callable[[Array, Array], Array]] = [
        lambda x, y: 1 + 0 * x,
        lambda x, y: 2 * x * y,
        lambda x, y: 2 * (x**2 + y**2) - 1,
        lambda x, y: x**2 - y**2,
        lambda x, y: 4 * x * y * (x**2 - y**2),
        lambda x, y: (4 * (x**2 + y**2) - 3) * 2 * x * y,
        lambda x, y: 6 * (x**2 + y**2) ** 2 - 6 * (x**2 + y**2) + 1,
        lambda x, y: (4 * (x**2 + y**2) - 3) * (x**2 - y**2),
        lambda x, y: x**4 - 6 * x**2 * y**2 + y**4,
    ]
    return lambda kx, ky: sum(value * terms[i](kx, ky) for i, value in c.items())  # type: ignore[return-value]


@dataclass
class Particles:
    """What is drawn for N particles: angles (N, 3), origins (N, 2) in A, defocus in A and degrees, B, scale (N,)."""

    angles: Array
    origins: Array
    defocus_u: Array
    defocus_v: Array
    defocus_angle: Array
    bfactor: Array
    scale: Array

    def __len__(self) -> int:
        return len(self.angles)


def draw(count: int, seed: int = 1, defocus: tuple[float, float] = (4000, 9000), origin: float = 3.0) -> Particles:
    """Uniform orientations, normal origins, uniform defocus with some astigmatism."""
    r = np.random.default_rng(seed)
    tilt = np.rad2deg(np.arccos(r.uniform(-1, 1, count)))
    angles = np.stack([r.uniform(-180, 180, count), tilt, r.uniform(-180, 180, count)], axis=1)
    middle, half = r.uniform(*defocus, count), r.uniform(0, 150, count)
    return Particles(
        angles,
        r.normal(0, origin, (count, 2)),
        middle + half,
        middle - half,
        r.uniform(0, 180, count),
        np.zeros(count),
        np.ones(count),
    )


def contrast_transfer(optics: Optics, u: float, v: float, angle_deg: float, kx: Array, ky: Array) -> Array:
    """RELION's CTF (ctf.h): -sin gamma, gamma = K1 (k^T A k) + K2 k^4 - K5 - K3 + even; positive at low frequencies."""
    lam, turn = wavelength(optics.kilovolts), np.deg2rad(angle_deg)
    along, across = kx * np.cos(turn) + ky * np.sin(turn), -kx * np.sin(turn) + ky * np.cos(turn)
    gamma = -np.pi * lam * (u * along**2 + v * across**2)
    gamma += np.pi / 2 * optics.cs_mm * 1e7 * lam**3 * (kx**2 + ky**2) ** 2
    gamma -= np.deg2rad(optics.phase_shift_deg) + np.arctan(optics.contrast / np.sqrt(1 - optics.contrast**2))
    return np.asarray(-np.sin(gamma + optics.even(kx, ky)))


PADDING = 2
"""Images are made in a box so many times larger and cut out: what the CTF spreads beyond a box does not come back."""


def make_images(
    optics: Optics,
    particles: Particles,
    points: Array,
    weights: Array,
    width: float,
    rows: Array,
    noise: float = 0.0,
    generator: np.random.Generator | None = None,
) -> Array:  # -> (n, D, D)
    """Images of white protein with noise of this deviation, the particle about pixel D // 2.

    Noise is white when it is recorded, and goes through what is done to the images afterwards.
    """
    pixel, box = optics.pixel, optics.box * PADDING
    ky, kx = np.meshgrid(np.fft.fftfreq(box, pixel), np.fft.fftfreq(box, pixel), indexing="ij")
    m = optics.magnification  # true frequency q = M k (obs_model: applyAnisoMag, getCTF, getPhaseCorrection)
    qx, qy = m[0, 0] * kx + m[0, 1] * ky, m[1, 0] * kx + m[1, 1] * ky
    images = np.empty((len(rows), optics.box, optics.box))
    start = box // 2 - optics.box // 2
    for place, i in enumerate(rows):
        x, y = m.T @ (points @ rotation(particles.angles[i]).T)[:, :2].T  # q . r = k . M^T r
        along_x, along_y = np.exp(-2j * np.pi * kx[0, :, None] * x), np.exp(-2j * np.pi * ky[:, 0, None] * y)
        projection = (along_y * weights) @ along_x.T * np.exp(-2 * np.pi**2 * width**2 * (qx**2 + qy**2)) / pixel**2
        where = np.exp(2j * np.pi * (kx * particles.origins[i, 0] + ky * particles.origins[i, 1]))  # sits at -origin
        where = where * np.exp(-2j * np.pi * (kx + ky) * (box // 2) * pixel)
        defocus = particles.defocus_u[i], particles.defocus_v[i], particles.defocus_angle[i]
        c = contrast_transfer(optics, *defocus, qx, qy)
        envelope = particles.scale[i] * np.exp(-particles.bfactor[i] / 4 * (qx**2 + qy**2))
        ideal = optics.state == "corrected"  # as if there were no CTF
        recorded = projection * where * (1.0 if ideal else c) * envelope * np.exp(1j * optics.odd(qx, qy))
        if noise:
            assert generator is not None
            recorded += np.fft.fft2(generator.normal(0, noise, (box, box)))
        recorded *= {"flipped": np.sign(c), "premultiplied": c}.get(optics.state, 1.0)
        whole = np.fft.ifft2(recorded).real
        images[place] = whole[start : start + optics.box, start : start + optics.box]
    return images


def density(points: Array, weights: Array, width: float, box: int, pixel: float) -> Array:
    """The map (D, D, D) as [z, y, x], in units in which its sum along the beam gives the projection."""
    axis = (np.arange(box) - box // 2) * pixel
    x, y, z = (np.exp(-((axis - points[:, i, None]) ** 2) / (2 * width**2)) for i in range(3))
    values = np.einsum("n,nz,ny,nx->zyx", weights, z, y, x) / (2 * np.pi * width**2) ** 1.5
    return np.asarray(values * pixel, np.float32)


def write_dataset(
    folder: Path,
    groups: list[tuple[Optics, Array]],
    particles: Particles,
    *,
    snr: float = 1.0,
    sign: int = 1,
    width: float = 1.6,
    seed: int = 3,
    optics_columns: Mapping[str, list[object]] | None = None,
    particle_columns: Mapping[str, Array] | None = None,
    map_box: int | None = None,
    points: tuple[Array, Array] | None = None,
) -> list[Array]:
    """A STAR file, a stack for each group of rows, and the map; returns the noise-free images of each group.

    ``snr``: variance of the recorded signal over that of the noise. ``sign`` -1: dark protein.
    """
    folder.mkdir(parents=True, exist_ok=True)
    xyz, weights = lopsided_points() if points is None else points
    generator = np.random.default_rng(seed)
    clean: list[Array] = []
    names, group_of = np.empty(len(particles), object), np.zeros(len(particles), int)
    for number, (optics, rows) in enumerate(groups, start=1):
        recorded = make_images(replace(optics, state="raw"), particles, xyz, weights, width, rows)
        noise = float(np.sqrt(recorded.var(axis=(1, 2)).mean() / snr))
        same = optics.state == "raw"
        clean.append(sign * (recorded if same else make_images(optics, particles, xyz, weights, width, rows)))
        images = sign * make_images(optics, particles, xyz, weights, width, rows, noise, generator)
        with mrcfile.new(folder / f"group{number}.mrcs", overwrite=True) as file:
            file.set_data(images.astype(np.float32))
            file.voxel_size = optics.pixel
            file.set_image_stack()
        names[rows] = [f"{i + 1:06d}@group{number}.mrcs" for i in range(len(rows))]
        group_of[rows] = number
    first = groups[0][0]
    box = map_box or first.box
    with mrcfile.new(folder / "map.mrc", overwrite=True) as file:
        file.set_data(density(xyz, weights, width, box, first.box * first.pixel / box))
        file.voxel_size = first.box * first.pixel / box
    table: dict[str, list[object]] = {
        "rlnOpticsGroupName": [f"group{i + 1}" for i in range(len(groups))],
        "rlnOpticsGroup": list(range(1, len(groups) + 1)),
        "rlnVoltage": [o.kilovolts for o, _ in groups],
        "rlnSphericalAberration": [o.cs_mm for o, _ in groups],
        "rlnAmplitudeContrast": [o.contrast for o, _ in groups],
        "rlnImagePixelSize": [o.pixel for o, _ in groups],
        "rlnImageSize": [o.box for o, _ in groups],
        "rlnImageDimensionality": [2 for _ in groups],
        **(optics_columns or {}),
    }
    phase = np.array([groups[g - 1][0].phase_shift_deg for g in group_of])
    rows_of: dict[str, Array] = {
        "rlnImageName": names,
        "rlnAngleRot": particles.angles[:, 0],
        "rlnAngleTilt": particles.angles[:, 1],
        "rlnAnglePsi": particles.angles[:, 2],
        "rlnOriginXAngst": particles.origins[:, 0],
        "rlnOriginYAngst": particles.origins[:, 1],
        "rlnDefocusU": particles.defocus_u,
        "rlnDefocusV": particles.defocus_v,
        "rlnDefocusAngle": particles.defocus_angle,
        "rlnPhaseShift": phase,
        "rlnOpticsGroup": group_of,
        **(particle_columns or {}),
    }
    text = ""
    for name, columns in (("optics", table), ("particles", rows_of)):
        text += f"\n# version 30001\n\ndata_{name}\n\nloop_\n"
        text += "".join(f"_{column} #{i + 1}\n" for i, column in enumerate(columns))
        text += "".join(" ".join(str(value) for value in row) + "\n" for row in zip(*columns.values())) + "\n"
    (folder / "particles.star").write_text(text)
    return clean


def ring_correlation(first: Array, second: Array) -> Array:  # (n, D, D) x 2 -> (D/2 - 1,)
    """Fourier ring correlation over all images together, rings 1 to D/2 - 1."""
    box = first.shape[-1]
    a, b = np.fft.fft2(first), np.fft.fft2(second)
    f = np.fft.fftfreq(box) * box
    ring = np.hypot(f[:, None], f[None]).round().astype(int)
    found = []
    for k in range(1, box // 2):
        x, y = a[:, ring == k], b[:, ring == k]
        found.append((x * y.conj()).real.sum() / np.sqrt((np.abs(x) ** 2).sum() * (np.abs(y) ** 2).sum()))
    return np.array(found)
