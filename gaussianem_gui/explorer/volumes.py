"""Volumes and Gaussians for views: read, averaged down, contoured and cut. No Qt, no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.io.mrc import read_map
from gaussianem_core.io.ply import read_points
from gaussianem_core.runtime.readers import read_json
from gaussianem_gui.explorer.painting import MIDDLE, Paint

MOST_ENTRIES = 60  # of a list in a summary
DEFAULT_CONTOUR = 3.0  # sigma above the mean where no better level is known

FWHM_OF_SIGMA = 2.3548  # 2 sqrt(2 ln 2)


@dataclass(frozen=True)
class Picture:
    """A volume to show: ``values`` (Z, Y, X) float32, the centre at voxel D//2 of the file's box; mean and sigma of the
    file's values."""

    path: Path
    values: np.ndarray
    voxel_angstrom: float
    box: int  # of the file
    mean: float
    sigma: float
    top: float  # greatest value, in sigma above the mean

    @property
    def greatest(self) -> float:
        """The greatest value."""
        return self.mean + self.top * self.sigma

    @property
    def default_level(self) -> float:
        """A contour level where no better one is known: DEFAULT_CONTOUR sigma above the mean, or halfway to the
        greatest value if that is lower (a mask, a smooth map)."""
        return self.level(min(DEFAULT_CONTOUR, self.top / 2))

    def level(self, sigmas: float) -> float:
        """The value ``sigmas`` standard deviations above the mean."""
        return self.mean + sigmas * self.sigma

    def sigmas(self, level: float) -> float:
        """Number of standard deviations that a value lies above the mean."""
        return (level - self.mean) / self.sigma

    @property
    def half_angstrom(self) -> float:
        """Half of the box's length, in Angstrom."""
        return self.voxel_angstrom * self.values.shape[0] / 2

    @property
    def offset_angstrom(self) -> float:
        """Position (Angstrom) of the first voxel's centre relative to the box's centre, voxel D//2 of the file."""
        binning = self.box / self.values.shape[0]
        return (-(self.box // 2) + (binning - 1) / 2) * self.voxel_angstrom / binning


def load_volume(path: Path, longest: int) -> Picture:
    """Read an MRC volume, averaged down until no side exceeds ``longest`` voxels. Raises InputError."""
    volume = read_map(path)
    values = volume.values
    box = values.shape[0]
    factor = -(-max(values.shape) // longest)
    mean, sigma = float(values.mean()), float(values.std())
    if factor > 1:
        nz, ny, nx = (n // factor for n in values.shape)
        values = values[: nz * factor, : ny * factor, : nx * factor]
        values = values.reshape(nz, factor, ny, factor, nx, factor).mean(axis=(1, 3, 5))
    sigma = sigma or 1.0
    return Picture(
        path,
        np.ascontiguousarray(values, dtype=np.float32),
        volume.pixel_size_angstrom * factor,
        box,
        mean,
        sigma,
        (float(values.max()) - mean) / sigma,
    )


@dataclass(frozen=True)
class Cut:
    """A plane that cuts a volume open: the side towards ``normal`` (z, y, x) is removed."""

    normal: tuple[float, float, float]
    offset_angstrom: float  # of the plane from the box's centre, along the normal


@dataclass(frozen=True)
class Look:
    """How a volume is drawn as a surface: contour level in the map's units, plane that cuts it open, and colouring."""

    level: float
    cut: Cut | None = None
    paint: Paint | None = None


def distances(picture: Picture, cut: Cut) -> np.ndarray:  # -> (Z, Y, X)
    """Signed distance (A) of every voxel from the plane of a cut, above 0 on the side that is removed."""
    n = picture.values.shape
    axes = [np.arange(count, dtype=np.float32) * picture.voxel_angstrom + picture.offset_angstrom for count in n]
    z, y, x = (axis * np.float32(part) for axis, part in zip(axes, cut.normal))
    return z[:, None, None] + y[None, :, None] + x[None, None, :] - np.float32(cut.offset_angstrom)


def cut_at(picture: Picture, level: float, normal: tuple[float, float, float], share: float) -> Cut | None:
    """The plane that removes ``share`` (0 to 1) of the depth along ``normal`` of the voxels above ``level``, all but
    one voxel at most; None where nothing is removed."""
    places = np.argwhere(picture.values > level) if share > 0 else np.zeros((0, 3))
    if not len(places):
        return None
    depth = (places * picture.voxel_angstrom + picture.offset_angstrom) @ np.asarray(normal)
    low, high = float(depth.min()), float(depth.max())
    return Cut(normal, high - share * (high - low - picture.voxel_angstrom))


def surface(picture: Picture, level: float, cut: Cut | None = None) -> tuple[np.ndarray, np.ndarray]:  # (V, 3), (F, 3)
    """Isosurface at ``level``: vertices z, y, x in A from the box's centre, and faces; a cut is closed by a flat cap.

    Empty arrays if the level lies outside the volume's values.
    """
    from skimage.measure import marching_cubes

    values = picture.values
    if cut is not None:
        # the solid between surface and plane is where the smaller of two functions is positive; the plane's is as
        # steep as the map's, so that the two meet where they should
        steep = (picture.greatest - level) / (4 * picture.voxel_angstrom)
        values, level = np.minimum(values - level, -max(steep, 1e-12) * distances(picture, cut)), 0.0
    low, high = float(values.min()), float(values.max())
    if not low < level < high:
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)
    padded = np.pad(values, 1, constant_values=min(low, level))  # closes surfaces at the border
    vertices, faces, _, _ = marching_cubes(padded, level)
    placed = (vertices - 1) * picture.voxel_angstrom + picture.offset_angstrom
    return placed.astype(np.float32), faces.astype(np.int32)


def paint_by_map(other: Picture, shown: Picture, level: float) -> Paint:
    """Colouring of the surface of ``shown`` at ``level`` by another map, e.g. of local resolution.

    The ramp spans the percentiles MIDDLE of the other map's values inside the surface.
    """
    from scipy.ndimage import map_coordinates

    def at(vertices: np.ndarray) -> np.ndarray:
        places = (vertices - other.offset_angstrom) / other.voxel_angstrom
        return np.asarray(map_coordinates(other.values, places.T, order=1, mode="nearest"))

    inside = np.argwhere(shown.values > level)
    inside = inside[:: max(1, len(inside) // 50_000)]
    values = at(inside * shown.voxel_angstrom + shown.offset_angstrom) if len(inside) else other.values.reshape(-1)
    low, high = (float(end) for end in np.percentile(values, MIDDLE))
    return Paint(other.path.stem, "", low, high if high > low else low + 1.0, at)


def difference(before: Picture, now: Picture) -> Picture:
    """``now`` less ``before``, on the coarser grid of the two; its sigma is that of ``now``.

    Raises InputError where the two are not of one box.
    """
    if abs(before.voxel_angstrom * before.values.shape[0] - now.voxel_angstrom * now.values.shape[0]) > 1e-3:
        raise InputError(
            str(before.path),
            f"must have the box of {now.path.name}, {now.voxel_angstrom * now.values.shape[0]:.4g} Å",
            f"{before.voxel_angstrom * before.values.shape[0]:.4g} Å",
            "Choose a map of the same box.",
        )
    coarse = min(before.values.shape[0], now.values.shape[0])
    first, second = (binned(p.values, p.values.shape[0] // coarse) for p in (before, now))
    if first.shape != second.shape:
        raise InputError(str(before.path), f"must have {coarse} voxels a side", first.shape, "Choose another map.")
    change = np.ascontiguousarray(second - first, np.float32)
    voxel = now.voxel_angstrom * now.values.shape[0] / coarse
    top = float(np.abs(change).max()) / now.sigma
    return Picture(Path(f"{now.path}-{before.path}"), change, voxel, now.box, 0.0, now.sigma, top)


def binned(values: np.ndarray, factor: int) -> np.ndarray:  # (D, D, D) -> (D // factor, ...)
    """A volume averaged over blocks of ``factor`` voxels a side."""
    if factor <= 1:
        return values
    n = values.shape[0] // factor
    values = values[: n * factor, : n * factor, : n * factor]
    return values.reshape(n, factor, n, factor, n, factor).mean(axis=(1, 3, 5))


@dataclass(frozen=True)
class GaussianPoints:
    """Gaussians to draw: positions (N, 3) z, y, x in [-1, 1], densities (N,); sigmas (N,) in the same unit, None where
    the file does not tell; ``half_angstrom``, the length of that unit, None likewise."""

    positions: np.ndarray
    densities: np.ndarray
    sigmas: np.ndarray | None = None
    half_angstrom: float | None = None

    def widths(self, half_angstrom: float) -> np.ndarray | None:  # (N,) A
        """Full widths at half maximum: as far as a Gaussian is seen."""
        return None if self.sigmas is None else FWHM_OF_SIGMA * half_angstrom * self.sigmas


def load_gaussians(path: Path) -> GaussianPoints:
    """The Gaussians of a .ply file, with sigmas where a ``cfg.json`` with their bounds lies beside it.

    Raises InputError for a file that cannot be read or holds values that are not finite.
    """
    from gaussianem_core.model.configuration import WORLD, load_configuration

    found = read_points(path, str(path), tuple("zyx"), "Choose another file.", optional=("density", "scale_0"))
    positions = np.stack([found[axis] for axis in "zyx"], axis=1)
    if not all(np.isfinite(values).all() for values in found.values()):
        raise InputError(str(path), "must hold finite Gaussians", "NaN or infinite values", "Choose another file.")
    densities = np.logaddexp(found.get("density", np.zeros(len(positions))), 0.0)
    beside = path.parent / "cfg.json"
    if "scale_0" not in found or not beside.is_file():
        return GaussianPoints(positions, densities)
    known = load_configuration(beside)
    share = np.exp(-np.logaddexp(0.0, -np.asarray(found["scale_0"], np.float64)))  # the sigmoid, at any size
    sigmas = known.scale_min + (known.scale_max - known.scale_min) * share
    return GaussianPoints(positions, densities, sigmas, known.box * known.pixel_size_angstrom / WORLD)


def natural_key(name: str) -> list[object]:
    """Sort key of natural order: "vol_2" before "vol_10"."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", name)]


def series(directory: Path) -> list[Path]:
    """MRC volumes of a directory in natural order."""
    return sorted((p for p in directory.glob("*.mrc") if p.is_file()), key=lambda p: natural_key(p.name))


def _in_words(value: object) -> str:
    """An entry of a list, in one line: names with their values."""
    if isinstance(value, dict):
        return ", ".join(f"{str(key).replace('_', ' ')} {_in_words(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return " ".join(_in_words(inner) for inner in value[:12]) + (" …" if len(value) > 12 else "")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read_table(path: Path) -> dict[str, object]:
    """A JSON summary as a flat table of names and values; {} if the file cannot be read."""
    try:
        values = read_json(path, str(path), "Choose another file.")
    except InputError:
        return {}
    flat: dict[str, object] = {}

    def walk(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix} · {key}" if prefix else str(key), inner)
        elif isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
            for number, inner in enumerate(value[:MOST_ENTRIES], start=1):
                flat[f"{prefix} {number}"] = _in_words(inner)
        elif isinstance(value, list):
            flat[prefix] = ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in value[:12]) + (
                " …" if len(value) > 12 else ""
            )
        else:
            flat[prefix] = f"{value:.5g}" if isinstance(value, float) else value

    walk("", values)
    return flat
