"""Columns of every particle that the explorer plots: latents, components, classes, poses, CTF and the particle file's.

No Qt here. Rows are those of the latents file, which are the particles in the order of the particle file. All particles
are held; nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gaussianem_core.analysis.latent_space import Components, active_dimensions, principal_components
from gaussianem_core.errors import InputError
from gaussianem_core.imaging.ctf import load_ctf
from gaussianem_core.imaging.pose import angles_from_rotations, load_poses
from gaussianem_core.io.image_rows import load_particles
from gaussianem_core.io.latents import load_latents
from gaussianem_core.io.particle_table import column_names, read_particle_column, row_count
from gaussianem_core.runtime.readers import NUMBERS, read_npz
from gaussianem_gui.explorer.sources import Sources

MOST_CLASSES = 100_000
LIKELIHOODS = {
    "log_likelihood": "Log-likelihood",
    "log_likelihood_gain": "Log-likelihood over noise",
    "signal_fit": "Signal found less expected (σ)",
}
NOTHING_VARIES = (
    "Nothing stands above the noise: no latent dimension tells the particles apart, so there are no latent axes to "
    "plot and one volume stands for all of them. Colours and axes are what else is known of each particle."
)


@dataclass(frozen=True)
class Column:
    """One quantity of each particle: ``values`` (N,) numbers (NaN where unknown), or class codes with ``names``."""

    name: str
    group: str
    values: np.ndarray
    names: tuple[str, ...] = ()

    @property
    def classes(self) -> bool:
        """True if values are codes of ``names``."""
        return bool(self.names)


@dataclass
class ParticleColumns:
    """Columns of N particles; those of the particle file are read when first requested."""

    z: np.ndarray  # (N, zdim) float32
    log_variance: np.ndarray | None
    alone: tuple[np.ndarray, np.ndarray | None]  # latents and log-variances by each image alone: not drawn together
    components: Components
    columns: dict[str, Column] = field(default_factory=dict)
    star: tuple[str, ...] = ()
    original: Path | None = None
    labels: np.ndarray | None = None  # (N,) from 0
    centres: np.ndarray | None = None
    varies: bool = True  # False where no latent dimension tells the particles apart: no latent is a column then

    def __len__(self) -> int:
        return len(self.z)

    def names(self) -> dict[str, list[str]]:
        """Names of all columns by group."""
        found: dict[str, list[str]] = {}
        for column in self.columns.values():
            if column.group != "Particle file":
                found.setdefault(column.group, []).append(column.name)
        if self.star:
            found["Particle file"] = list(self.star)
        return found

    def axes(self) -> dict[str, list[str]]:
        """Names of the columns that can be an axis."""
        return {
            group: [n for n in names if n not in self.columns or not self.columns[n].classes]
            for group, names in self.names().items()
        }

    def column(self, name: str) -> Column:
        """A column; one of the particle file is read from disk, so call it in a worker the first time.

        Raises InputError for an unknown name.
        """
        if name not in self.columns:
            if name not in self.star or self.original is None:
                raise InputError("column", "must be one of the table", name, "Choose another.")
            self.columns[name] = _column_of(name, "Particle file", read_particle_column(self.original, name), len(self))
        return self.columns[name]

    def loaded(self, name: str) -> bool:
        """True if a column is in memory."""
        return name in self.columns

    def plane(self, x: str, y: str) -> np.ndarray:  # -> (N, 2) float32
        """Two columns side by side. Raises InputError as :meth:`column`."""
        return np.stack([self.column(x).values, self.column(y).values], axis=1).astype(np.float32)

    def latent_axes(self, x: str, y: str) -> np.ndarray | None:  # -> (2, zdim)
        """Directions in latent space of two axes that are components or latents; None for other columns."""
        axes = [self._direction(name) for name in (x, y)]
        return None if axes[0] is None or axes[1] is None else np.stack([a for a in axes if a is not None])

    def _direction(self, name: str) -> np.ndarray | None:
        kind, _, number = name.partition(" ")
        if kind == "PC" and number.isdigit():
            return self.components.axes[int(number) - 1]
        if kind == "z" and number.isdigit():
            return np.eye(self.z.shape[1])[int(number) - 1]
        return None

    def latent_at(self, x: str, y: str, place: Sequence[float], base: np.ndarray) -> np.ndarray | None:  # -> (zdim,)
        """The latent whose x and y are ``place`` and whose other coordinates are those of ``base``; None if the axes
        are no directions of the latent space."""
        axes = self.latent_axes(x, y)
        if axes is None:
            return None
        offset = self.components.mean
        now = [(base - offset if name.startswith("PC") else base) @ axis for name, axis in zip((x, y), axes)]
        change, *_ = np.linalg.lstsq(axes, np.asarray(place) - np.array(now), rcond=None)
        return np.asarray(base + change, np.float64)

    def project(self, x: str, y: str, z: np.ndarray) -> np.ndarray | None:  # (P, zdim) -> (P, 2)
        """Coordinates of latents in a plot; None if its axes are not directions of the latent space."""
        axes = self.latent_axes(x, y)
        if axes is None:
            return None
        z = np.atleast_2d(z)
        return np.stack(
            [(z - self.components.mean if n.startswith("PC") else z) @ a for n, a in zip((x, y), axes)], axis=1
        )


def load_table(sources: Sources) -> ParticleColumns:
    """Read latents, analysis, poses and CTF; columns of the particle file follow on request.

    Raises InputError for files that cannot be read, or if latents and particle file do not fit.
    """
    arrays = load_latents(sources.latents)
    z = np.asarray(arrays["z_mu"], np.float32)
    log_variance = arrays.get("z_logvar")
    if log_variance is not None and log_variance.shape != z.shape:
        log_variance = None
    own = [arrays[name] for name in ("image_mu", "image_logvar") if name in arrays]
    whole = [values.shape for values in own] == [z.shape] * 2
    alone = (own[0], own[1]) if whole else (z, log_variance)
    components = principal_components(z)
    active = active_dimensions(arrays)
    table = ParticleColumns(z, log_variance, alone, components, varies=bool(active.any()))

    def add(name: str, group: str, values: np.ndarray) -> None:
        if np.shape(values) == (len(z),):
            table.columns[name] = _column_of(name, group, values, len(z))

    if table.varies:
        scores = components.scores(z).astype(np.float32)
        for i in range(components.used):
            add(f"PC {i + 1}", "Components", scores[:, i])
    for i in map(int, np.flatnonzero(active)):
        add(f"z {i + 1}", "Latents", z[:, i])
    if not table.varies:
        add("Particle", "Order in the file", np.arange(1, len(z) + 1))
    elif log_variance is not None:
        add("Uncertainty", "Latents", np.sqrt(np.exp(log_variance).mean(axis=1)))
    for name, label in LIKELIHOODS.items():
        if name in arrays:
            add(label, "Fit", arrays[name].reshape(-1))
    _add_analysis(table, sources, add)
    _add_geometry(sources, add)
    if sources.original is not None:
        table.original = sources.original
        rows = row_count(sources.original)
        particle = load_particles(sources.particles.parent) if sources.particles is not None else None
        if rows != len(z) and (particle is None or len(particle) != rows):
            raise InputError(
                str(sources.original),
                f"must have the {len(z)} rows of the latents",
                rows,
                "The particle file was changed after Preprocess: bring the old one back.",
            )
        table.star = column_names(sources.original) if rows == len(z) else ()
    return table


def _add_analysis(table: ParticleColumns, sources: Sources, add: Callable[[str, str, np.ndarray], None]) -> None:
    count = len(table)
    if sources.analysis is None:
        return
    wanted = frozenset(("labels", "centres", "umap", "umap_rows"))
    arrays = read_npz(sources.analysis / "analysis.npz", "analysis", "Run Analyze again.", wanted, NUMBERS)
    labels = arrays.get("labels", np.empty(0))
    if table.varies and labels.shape == (count,) and 1 <= labels.min() and labels.max() <= MOST_CLASSES:
        table.labels = arrays["labels"].astype(np.int64) - 1
        table.centres = arrays.get("centres")
        names = tuple(f"class {i + 1}" for i in range(int(table.labels.max(initial=0)) + 1))
        table.columns["Class"] = Column("Class", "Analysis", table.labels, names)
    umap, rows = arrays.get("umap"), arrays.get("umap_rows")
    if not table.varies or umap is None or rows is None:
        return
    if umap.size and umap.shape == (rows.size, 2) and rows.dtype.kind in "iu":
        if not (0 <= rows.min() and rows.max() < count):
            raise InputError("analysis", "must be of these particles", sources.analysis, "Run Analyze again.")
        full = np.full((count, 2), np.nan, np.float32)
        full[rows] = umap
        add("UMAP 1", "UMAP", full[:, 0])
        add("UMAP 2", "UMAP", full[:, 1])


def _add_geometry(sources: Sources, add: Callable[[str, str, np.ndarray], None]) -> None:
    if sources.poses is not None:
        rotations, shifts = load_poses(sources.poses)
        angles = angles_from_rotations(rotations)
        for i, name in enumerate(("Rot (°)", "Tilt (°)", "Psi (°)")):
            add(name, "Pose", angles[:, i])
        add("Shift (px)", "Pose", np.linalg.norm(shifts, axis=1))
    if sources.ctf is not None:
        parameters = load_ctf(sources.ctf)
        add("Defocus (µm)", "CTF", 0.5e-4 * (parameters[:, 2] + parameters[:, 3]))
        add("Astigmatism (Å)", "CTF", np.abs(parameters[:, 2] - parameters[:, 3]))


def _column_of(name: str, group: str, values: np.ndarray, count: int) -> Column:
    values = np.asarray(values)
    if values.ndim > 1:  # a vector field of a .cs file: its length
        values = np.linalg.norm(values.reshape(len(values), -1).astype(np.float64), axis=1)
    if len(values) != count:
        raise InputError("column", f"must have {count} values", f"{name}: {len(values)}", "Choose another.")
    if values.dtype.kind in "USO":
        names, codes = np.unique(values, return_inverse=True)
        return Column(name, group, codes.reshape(-1), tuple(str(n) for n in names))
    return Column(name, group, values.astype(np.float32) if values.dtype.kind in "fiub" else values)
