"""Images of chosen particles from the prepared stack: low-pass filtered, CTF-corrected, averaged by view. No Qt here.

The conventions are those of ``gaussianem_core.imaging.pose``: a particle sits at minus its shift, r_image = A r_volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.cluster.vq import kmeans2

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.ctf import ctf, load_ctf
from gaussianem_core.imaging.pose import load_poses
from gaussianem_core.io.image_rows import load_images, load_particles
from gaussianem_core.io.image_stack import ImageStack
from gaussianem_core.model.configuration import load_configuration
from gaussianem_gui.explorer.sources import Sources

WIENER = 0.1  # noise over signal of the correction: bounds the gain where the CTF is small
AVERAGE_AT_MOST = 3000  # images that a class average is made from


@dataclass(frozen=True)
class Looks:
    """Treatment of images for display: low-pass at ``resolution_angstrom`` (0: none), CTF-corrected or not."""

    resolution_angstrom: float = 0.0
    correct_ctf: bool = False


def read_images(sources: Sources, rows: np.ndarray, looks: Looks) -> np.ndarray:  # (n,) -> (n, D, D)
    """Images in the order of ``rows`` (of poses.npy). Raises InputError if there is no stack, or no CTF to correct."""
    if sources.stack is None:
        raise InputError("images", "must be there", "no stack", "Restore the Preprocess job's img_stack.mrcs.")
    with ImageStack.from_file(sources.stack) as stack:
        images = stack.read(images_of_rows(sources, rows))
        pixel = float(stack.pixel_size_angstrom[0])
    if looks.correct_ctf:
        images = correct(images, transfer(sources, rows, images.shape[-1]))
    if looks.resolution_angstrom > 0:
        images = low_pass(images, pixel, looks.resolution_angstrom)
    return images


def images_of_rows(sources: Sources, rows: np.ndarray) -> np.ndarray:  # (n,) -> (n,)
    """Numbers in the stack of the images that ``rows`` of poses.npy show."""
    rows = np.asarray(rows, np.int64)
    shown = load_images(sources.images.parent) if sources.images is not None else None
    return rows if shown is None else shown[rows]


def rows_of_latents(sources: Sources, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (n,) -> (m,), (m,)
    """Rows of poses.npy of the particles ``latents``, one particle after the other, and the latent of each row.

    Both are ``latents`` but for tilt series, where a particle has many images.
    """
    latents = np.asarray(latents, np.int64)
    particle = load_particles(sources.particles.parent) if sources.particles is not None else None
    if particle is None:
        return latents, latents
    order, sizes = np.argsort(particle, kind="stable"), np.bincount(particle)
    begin = sizes.cumsum() - sizes
    rows = [order[begin[p] : begin[p] + sizes[p]] for p in latents]
    return np.concatenate([*rows, np.zeros(0, np.int64)]), np.repeat(latents, sizes[latents])


def low_pass(images: np.ndarray, pixel_angstrom: float, resolution_angstrom: float) -> np.ndarray:
    """Images (n, D, D) times a Gaussian in Fourier space, exp(-(k d)^2): 1/e at the resolution d."""
    k = np.hypot(np.fft.fftfreq(images.shape[-2])[:, None], np.fft.rfftfreq(images.shape[-1])[None]) / pixel_angstrom
    return _filtered(images, np.exp(-np.square(k * resolution_angstrom)))


def correct(images: np.ndarray, transfer_of_each: np.ndarray) -> np.ndarray:
    """Images (n, D, D) filtered by c / (c^2 + WIENER), c (n, D, D//2+1) of :func:`transfer`; protein becomes white."""
    return _filtered(images, transfer_of_each / (np.square(transfer_of_each) + WIENER))


def _filtered(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    changed = np.fft.irfft2(np.fft.rfft2(images) * weights, s=images.shape[-2:])
    return np.asarray(changed, dtype=np.float32)


def transfer(sources: Sources, rows: np.ndarray, box: int) -> np.ndarray:  # -> (n, box, box // 2 + 1)
    """Transfer from a projection to the stack's image: the CTF, negated where the stack's protein is white.

    Raises InputError where there is no ctf.npy or no network's configuration.
    """
    if sources.ctf is None:
        raise InputError("CTF", "must be there", "no ctf.npy", "Restore the Preprocess job.")
    parameters = load_ctf(sources.ctf)[rows].astype(np.float64)
    invert = load_configuration(sources.model()[1]).invert_contrast
    return ctf(parameters, box) * (-1.0 if invert else 1.0)


@dataclass(frozen=True)
class Average:
    """One view's average (D, D), how many images it holds, and its direction (rot, tilt in degrees)."""

    image: np.ndarray
    count: int
    direction: tuple[float, float]


def averages_by_view(sources: Sources, rows: np.ndarray, views: int = 8, seed: int = 0) -> list[Average]:
    """Averages of the images of ``rows`` (n,) by groups of viewing directions, each turned and shifted to the group's.

    CTF-weighted (sum of CTF x image over sum of CTF squared plus a constant). Groups are those of k-means of the
    directions; the largest comes first. Of a large selection ``AVERAGE_AT_MOST`` random images are taken. Raises
    InputError where there are no poses or no stack.
    """
    if sources.poses is None:
        raise InputError("poses", "must be there", "no poses.npy", "Restore the Preprocess job.")
    generator = np.random.default_rng(seed)
    rows = np.asarray(rows)
    if len(rows) > AVERAGE_AT_MOST:
        rows = np.sort(generator.choice(rows, AVERAGE_AT_MOST, replace=False))
    rotations, shifts = load_poses(sources.poses)
    rotations, shifts = rotations[rows].astype(np.float64), shifts[rows]
    directions = rotations[:, 2]
    groups = min(views, len(rows))
    centres, member = kmeans2(directions, groups, minit="++", seed=generator)
    images = read_images(sources, rows, Looks())
    weights = transfer(sources, rows, images.shape[-1]) if sources.ctf is not None else None
    if weights is not None:
        images = _filtered(images, weights)
    found = []
    for group in range(groups):
        own = np.flatnonzero(member == group)
        if not len(own):
            continue
        middle = own[np.argmax(directions[own] @ centres[group])]
        total = np.zeros(images.shape[1:])
        power = np.zeros(images.shape[1:])
        for i in own:
            turn = in_plane(rotations[middle], rotations[i])
            total += aligned(images[i], turn, shifts[i])
            if weights is not None:
                power += _turned_power(weights[i], turn)
        if weights is not None:
            total = np.fft.ifft2(np.fft.fft2(total) / (power + WIENER * len(own))).real
        else:
            total /= len(own)
        tilt = float(np.degrees(np.arccos(np.clip(centres[group][2] / np.linalg.norm(centres[group]), -1, 1))))
        rot = float(np.degrees(np.arctan2(centres[group][1], centres[group][0])))
        found.append(Average(total.astype(np.float32), len(own), (rot, tilt)))
    return sorted(found, key=lambda a: -a.count)


def in_plane(reference: np.ndarray, rotation: np.ndarray) -> float:  # (3, 3), (3, 3) -> radians
    """The rotation about the beam that brings the reference's view nearest to that of ``rotation``."""
    m = rotation @ reference.T
    return float(np.arctan2(m[1, 0] - m[0, 1], m[0, 0] + m[1, 1]))


def aligned(image: np.ndarray, turn: float, shift: np.ndarray) -> np.ndarray:  # (D, D), (2,) x, y pixels
    """The image as the reference sees it: point u of the reference is at R(turn) u - shift of the image."""
    c, s = np.cos(turn), np.sin(turn)
    centre = np.array([image.shape[0] // 2, image.shape[1] // 2])
    matrix = np.array([[c, s], [-s, c]])  # for (y, x)
    offset = centre - matrix @ centre - np.asarray(shift, np.float64)[::-1]
    return np.asarray(ndimage.affine_transform(image, matrix, offset, order=1, mode="constant", cval=image.mean()))


def _turned_power(weights: np.ndarray, turn: float) -> np.ndarray:  # (D, D // 2 + 1) -> (D, D)
    """Squared transfer on the whole Fourier grid, turned with the image (it hardly matters without astigmatism)."""
    box = weights.shape[0]
    whole = np.concatenate([weights, weights[(-np.arange(box)) % box][:, box - weights.shape[1] : 0 : -1]], axis=1)
    return np.asarray(np.square(whole))
