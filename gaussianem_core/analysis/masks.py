"""Masks from a map by level, largest part, dilation, soft edge and simple shapes, and combinations of masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from gaussianem_core.errors import InputError
from gaussianem_core.io.mrc import Volume


@dataclass(frozen=True)
class Shape:
    """A sphere or box to keep, cut or add.

    kind : "sphere" or "box". centre : x, y, z in Angstrom from voxel D//2.
    size : Angstrom; a sphere's radius first, or a box's half lengths along x, y, z.
    action : "keep" (nothing outside it), "cut" or "add".
    """

    kind: str
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    action: str = "keep"


@dataclass(frozen=True)
class MaskRecipe:
    """Parameters of a mask: ``level`` in the map's units, lengths in Angstrom."""

    level: float
    dilate_angstrom: float = 6.0
    edge_angstrom: float = 8.0
    dust: bool = True  # keep the largest connected part alone
    fill: bool = True  # no holes inside
    shapes: tuple[Shape, ...] = ()
    gaussians: tuple[int, ...] = ()  # what is kept is nearer to one of these than to any other; none: all is kept


def make_mask(
    volume: Volume, recipe: MaskRecipe, gaussians_angstrom: np.ndarray | None = None
) -> np.ndarray:  # (N, 3) x, y, z from the box's centre -> (D, D, D) float32 in [0, 1]
    """A mask of ``volume``. ``gaussians_angstrom``: positions (A) of the Gaussians whose numbers the recipe may hold.

    Raises InputError if nothing lies above the level, the recipe's Gaussians do not exist, or nothing is left.
    """
    pixel = volume.pixel_size_angstrom
    solid = volume.values > recipe.level
    if not solid.any() and not any(shape.action == "add" for shape in recipe.shapes):
        raise InputError("level", "must be below the map's maximum", recipe.level, f"It is {volume.values.max():.4g}.")
    if recipe.dust and solid.any():
        solid = largest_part(solid)
    if recipe.fill:
        solid = ndimage.binary_fill_holes(solid)
    solid = dilate(solid, recipe.dilate_angstrom / pixel)
    if recipe.gaussians:
        solid = nearest_to(solid, pixel, gaussians_angstrom, recipe.gaussians)
    for shape in recipe.shapes:
        inside = shape_mask(solid.shape, pixel, shape)
        if shape.action == "add":
            solid = solid | inside
        elif shape.action == "cut":
            solid = solid & ~inside
        else:
            solid = solid & inside
    if not solid.any():
        raise InputError("mask", "must not be empty", "nothing left", "Lower the level or move the shapes.")
    return soft_edge(solid, recipe.edge_angstrom / pixel)


def nearest_to(
    solid: np.ndarray, pixel_size_angstrom: float, positions: np.ndarray | None, chosen: tuple[int, ...]
) -> np.ndarray:  # (D, D, D) bool, (N, 3) -> (D, D, D) bool
    """The voxels of ``solid`` whose nearest Gaussian is one of those ``chosen``.

    ``positions``: x, y, z in Angstrom from voxel D//2. Raises InputError if a chosen Gaussian does not exist.
    """
    if positions is None or not 0 <= min(chosen) <= max(chosen) < len(positions):
        have = 0 if positions is None else len(positions)
        raise InputError("gaussians", f"must be among the {have} Gaussians of the model", chosen[-1], "Choose again.")
    voxels = np.argwhere(solid)
    places = (voxels[:, ::-1] - solid.shape[0] // 2) * pixel_size_angstrom
    kept = np.isin(cKDTree(positions).query(places)[1], chosen)
    found = np.zeros_like(solid)
    found[tuple(voxels[kept].T)] = True
    return found


def largest_part(solid: np.ndarray) -> np.ndarray:  # (D, D, D) bool
    """The largest connected part (faces touch)."""
    labels, count = ndimage.label(solid)
    if count < 2:
        return solid
    sizes = np.bincount(labels.reshape(-1))
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())


def dilate(solid: np.ndarray, voxels: float) -> np.ndarray:
    """The voxels within a distance of ``voxels`` of ``solid``, both (D, D, D) bool; a negative distance erodes."""
    if voxels == 0 or not solid.any():
        return solid
    if voxels > 0:
        return np.asarray(_distance(solid) <= voxels)
    return np.asarray(ndimage.distance_transform_edt(solid) > -voxels)


def soft_edge(solid: np.ndarray, voxels: float) -> np.ndarray:  # -> float32
    """A mask (D, D, D): 1 inside ``solid`` (D, D, D; bool), then a raised cosine of ``voxels`` width, then 0."""
    if voxels <= 0:
        return solid.astype(np.float32)
    distance = np.minimum(_distance(solid), voxels)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * distance / voxels), dtype=np.float32)


def _distance(solid: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.distance_transform_edt(~solid))


def shape_mask(size: tuple[int, ...], pixel: float, shape: Shape) -> np.ndarray:  # -> (D, D, D) bool
    """Voxels inside a sphere or box, on a grid of ``size`` voxels of ``pixel`` Angstrom with the origin at D//2."""
    axes = [(np.arange(n, dtype=np.float32) - n // 2) * pixel for n in size]
    zz, yy, xx = np.meshgrid(*axes, indexing="ij", sparse=True)
    x, y, z = shape.centre
    if shape.kind == "sphere":
        return np.asarray((xx - x) ** 2 + (yy - y) ** 2 + (zz - z) ** 2 <= shape.size[0] ** 2)
    a, b, c = shape.size
    return np.asarray((abs(xx - x) <= a) & (abs(yy - y) <= b) & (abs(zz - z) <= c))


def union(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The greater value of two masks (D, D, D). Raises InputError for different grids."""
    return np.maximum(*_same(first, second))


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The first mask outside the second: min(first, 1 - second). Raises InputError for different grids."""
    first, second = _same(first, second)
    return np.minimum(first, 1 - second)


def intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The smaller value of two masks (D, D, D). Raises InputError for different grids."""
    return np.minimum(*_same(first, second))


COMBINE = {"union": union, "difference": difference, "intersection": intersection}


def _same(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if first.shape != second.shape:
        raise InputError(
            "mask",
            f"must have the other's {first.shape[0]} voxels a side",
            second.shape[0],
            "Make both from maps of one size.",
        )
    return first, second


def shrunk(volume: Volume, longest: int) -> Volume:
    """A coarser copy for a preview, averaged over blocks of voxels to at most ``longest`` a side; its centre keeps its
    place to half a voxel."""
    factor = -(-max(volume.values.shape) // longest)
    if factor <= 1:
        return volume
    n = volume.values.shape[0] // factor
    values = volume.values[: n * factor, : n * factor, : n * factor]
    values = values.reshape(n, factor, n, factor, n, factor).mean(axis=(1, 3, 5))
    return Volume(values, volume.pixel_size_angstrom * factor, volume.origin_angstrom, volume.start_voxels)
