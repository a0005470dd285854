"""What the explorer knows: every particle's columns, the current selection with undo, and named selections on disk.

No Qt here. Rows are those of the latents file, which are the rows of the original particle file. Everything concerns
all particles; nothing is ever sampled.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gaussianem_core.io.checkpoint import load_latents
from gaussianem_core.errors import InputError
from gaussianem_core.job.events import write_atomically
from gaussianem_core.analysis.latent_space import Components, principal_components
from gaussianem_core.io.particle_table import column_names, read_particle_column
from gaussianem_core.io.cryosparc import load_cs
from gaussianem_core.io.star import find_particle_table, scan_star
from gaussianem_core.imaging.pose import angles_from_rotations, load_poses
from gaussianem_gui.explorer.sources import Sources

FILE = "selections.json"
UNDO_STEPS = 100
MODES = ("replace", "add", "subtract", "intersect")
LIKELIHOODS = {
    "log_likelihood": "Log-likelihood",
    "log_likelihood_gain": "Log-likelihood over noise",
    "signal_fit": "Signal found less expected (σ)",
}


@dataclass(frozen=True)
class Column:
    """One quantity a particle: ``values`` (N,) numbers (NaN where there is none), or class codes with ``names``."""

    name: str
    group: str
    values: np.ndarray
    names: tuple[str, ...] = ()

    @property
    def classes(self) -> bool:
        """True if values are codes of ``names``."""
        return bool(self.names)


@dataclass
class Table:
    """Columns of N particles; those of the particle file are read when first asked for."""

    z: np.ndarray  # (N, zdim) float32
    log_variance: np.ndarray | None
    alone: tuple[np.ndarray, np.ndarray | None]  # latents and log-variances by each image alone: not drawn together
    components: Components
    columns: dict[str, Column] = field(default_factory=dict)
    star: tuple[str, ...] = ()
    original: Path | None = None
    labels: np.ndarray | None = None  # (N,) from 0
    centres: np.ndarray | None = None

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
        """A column; one of the particle file is read from disk, so call it in a worker the first time."""
        if name not in self.columns:
            if name not in self.star or self.original is None:
                raise InputError("column", "must be one of the table", name, "Choose another.")
            self.columns[name] = _column_of(name, "Particle file", read_particle_column(self.original, name), len(self))
        return self.columns[name]

    def loaded(self, name: str) -> bool:
        """True if a column is in memory."""
        return name in self.columns

    def plane(self, x: str, y: str) -> np.ndarray:  # -> (N, 2) float32
        """Two columns side by side."""
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
        """Where latents appear in a plot, None if its axes are no directions of the latent space."""
        axes = self.latent_axes(x, y)
        if axes is None:
            return None
        z = np.atleast_2d(z)
        return np.stack(
            [(z - self.components.mean if n.startswith("PC") else z) @ a for n, a in zip((x, y), axes)], axis=1
        )


def load_table(sources: Sources) -> Table:
    """Read everything that is quick to read. Raises InputError if latents and particle file do not fit."""
    arrays = load_latents(sources.latents)
    z = np.asarray(arrays["z_mu"], np.float32)
    log_variance = arrays.get("z_logvar")
    if log_variance is not None and log_variance.shape != z.shape:
        log_variance = None
    own = [arrays[name] for name in ("image_mu", "image_logvar") if name in arrays]
    whole = [values.shape for values in own] == [z.shape] * 2
    alone = (own[0], own[1]) if whole else (z, log_variance)
    components = principal_components(z)
    table = Table(z, log_variance, alone, components)

    def add(name: str, group: str, values: np.ndarray) -> None:
        if np.shape(values) == (len(z),):
            table.columns[name] = _column_of(name, group, values, len(z))

    scores = components.scores(z).astype(np.float32)
    for i in range(components.used):
        add(f"PC {i + 1}", "Components", scores[:, i])
    for i in range(z.shape[1]):
        add(f"z {i + 1}", "Latents", z[:, i])
    if log_variance is not None:
        add("Uncertainty", "Latents", np.sqrt(np.exp(log_variance).mean(axis=1)))
    for name, label in LIKELIHOODS.items():
        if name in arrays:
            add(label, "Fit", arrays[name].reshape(-1))
    _add_analysis(table, sources, add)
    _add_geometry(sources, add)
    if sources.original is not None:
        table.original = sources.original
        rows = row_count(sources.original)
        if rows != len(z):
            raise InputError(
                str(sources.original), f"must have the {len(z)} rows of the latents", rows,
                "The particle file was changed after Preprocess: bring the old one back.",
            )
        table.star = column_names(sources.original)
    return table


def row_count(path: Path) -> int:
    """Particles in a .star or .cs file."""
    if path.suffix.lower() == ".cs":
        return len(load_cs(path, mmap=True))
    return find_particle_table(scan_star(path)).n_rows


def _add_analysis(table: Table, sources: Sources, add: Callable[[str, str, np.ndarray], None]) -> None:
    count = len(table)
    if sources.analysis is None:
        return
    with np.load(sources.analysis / "analysis.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if name not in ("z_mu", "scores")}
    if arrays.get("labels", np.empty(0)).shape == (count,):
        table.labels = arrays["labels"].astype(np.int64) - 1
        table.centres = arrays.get("centres")
        names = tuple(f"class {i + 1}" for i in range(int(table.labels.max(initial=0)) + 1))
        table.columns["Class"] = Column("Class", "Analysis", table.labels, names)
    umap, rows = arrays.get("umap"), arrays.get("umap_rows")
    if umap is not None and rows is not None and len(umap) and rows.max() < count:
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
        parameters = np.load(sources.ctf, allow_pickle=False)
        if parameters.ndim == 2 and parameters.shape[1] == 9:
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


# --- selections -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selection:
    """A named selection: ``mask`` (N,) bool, how it came about (``steps``), when and by whom."""

    name: str
    mask: np.ndarray
    steps: tuple[dict[str, Any], ...] = ()
    created: float = 0.0
    colour: int = 0

    @property
    def count(self) -> int:
        """Particles in it."""
        return int(np.count_nonzero(self.mask))


class Selections:
    """The current selection with undo and redo, and the named ones, kept in ``selections.json`` of the job.

    Every change keeps how it was made: a list of steps, each with mode, shape, plot and what it came from.
    """

    def __init__(self, count: int, directory: Path | None = None, job: str = "") -> None:
        self.count, self.job = count, job
        self.mask = np.zeros(count, bool)
        self.steps: tuple[dict[str, Any], ...] = ()
        self.named: list[Selection] = []
        self._undo: list[tuple[bytes, tuple[dict[str, Any], ...]]] = []
        self._redo: list[tuple[bytes, tuple[dict[str, Any], ...]]] = []
        self._path = directory / FILE if directory is not None else None
        self.problem = ""
        self._read()

    # --- the current selection ---

    @property
    def selected(self) -> int:
        """Particles selected now."""
        return int(np.count_nonzero(self.mask))

    def apply(self, mask: np.ndarray, mode: str, step: dict[str, Any]) -> None:
        """Combine ``mask`` (N,) with the current selection; ``mode`` is one of MODES."""
        assert mask.shape == (self.count,) and mode in MODES
        if mode == "add":
            new = self.mask | mask
        elif mode == "subtract":
            new = self.mask & ~mask
        elif mode == "intersect":
            new = self.mask & mask
        else:
            new = mask.copy()
        before = () if mode == "replace" else self.steps
        self._set(new, (*before, {**step, "mode": mode, "particles": int(np.count_nonzero(mask))}))

    def invert(self) -> None:
        """All that were not selected."""
        self._set(~self.mask, (*self.steps, {"shape": "invert"}))

    def clear(self) -> None:
        """Nothing."""
        if self.mask.any():
            self._set(np.zeros(self.count, bool), ())

    def _set(self, mask: np.ndarray, steps: tuple[dict[str, Any], ...]) -> None:
        self._undo.append(self._packed())
        del self._undo[:-UNDO_STEPS]
        self._redo.clear()
        self.mask, self.steps = mask, steps

    def _packed(self) -> tuple[bytes, tuple[dict[str, Any], ...]]:
        return zlib.compress(np.packbits(self.mask).tobytes(), 1), self.steps

    def _restore(self, state: tuple[bytes, tuple[dict[str, Any], ...]]) -> None:
        self.mask, self.steps = _unpack(state[0], self.count), state[1]

    def can_undo(self) -> bool:
        """True if there is something to undo."""
        return bool(self._undo)

    def can_redo(self) -> bool:
        """True if there is something to redo."""
        return bool(self._redo)

    def undo(self) -> bool:
        """One step back; False if there is none."""
        return self._travel(self._undo, self._redo)

    def redo(self) -> bool:
        """One step forward again."""
        return self._travel(self._redo, self._undo)

    def _travel(self, source: list[Any], target: list[Any]) -> bool:
        if not source:
            return False
        target.append(self._packed())
        self._restore(source.pop())
        return True

    # --- named selections ---

    def find(self, name: str) -> Selection:
        """A named selection. Raises InputError."""
        for selection in self.named:
            if selection.name == name:
                return selection
        raise InputError("selection", "must be one of " + ", ".join(s.name for s in self.named), name, "Save it first.")

    def keep(self, name: str) -> Selection:
        """Give the current selection a name and save; one of the same name is replaced. InputError if empty."""
        name = name.strip()
        if not name:
            raise InputError("name", "must not be empty", "nothing", "Give the selection a name.")
        if not self.mask.any():
            raise InputError("selection", "must hold at least one particle", "none", "Select particles first.")
        old = next((s for s in self.named if s.name == name), None)
        colour = old.colour if old is not None else max((s.colour for s in self.named), default=-1) + 1
        made = Selection(name, self.mask.copy(), self.steps, time.time(), colour)
        if old is not None:
            self.named[self.named.index(old)] = made
        else:
            self.named.append(made)
        self.save()
        return made

    def use(self, name: str, mode: str = "replace") -> None:
        """Combine a named selection with the current one."""
        found = self.find(name)
        self.apply(found.mask, mode, {"shape": "selection", "selection": name, "steps": list(found.steps)})

    def remove(self, name: str) -> None:
        """Forget a named selection."""
        self.named.remove(self.find(name))
        self.save()

    def rename(self, name: str, new: str) -> None:
        """Give a named selection another name."""
        found, new = self.find(name), new.strip()
        if not new or any(s.name == new for s in self.named):
            raise InputError("name", "must be new and not empty", new, "Choose another name.")
        place = self.named.index(found)
        self.named[place] = Selection(new, found.mask, found.steps, found.created, found.colour)
        self.save()

    def free_name(self) -> str:
        """A name not yet taken."""
        taken = {s.name for s in self.named}
        return next(f"Selection {i}" for i in range(1, len(taken) + 2) if f"Selection {i}" not in taken)

    # --- on disk ---

    def save(self) -> None:
        """Write the named selections; where the job's directory cannot be written, ``problem`` says so."""
        if self._path is None:
            return
        content = {
            "version": 1, "job": self.job, "particles": self.count, "host": socket.gethostname(),
            "selections": [
                {
                    "name": s.name, "count": s.count, "created": s.created, "colour": s.colour,
                    "steps": list(s.steps),
                    "rows": base64.b64encode(zlib.compress(np.packbits(s.mask).tobytes())).decode(),
                }
                for s in self.named
            ],
        }  # fmt: skip
        try:
            write_atomically(self._path, json.dumps(content, indent=1) + "\n")
            self.problem = ""
        except OSError as error:
            self.problem = f"The selections are not saved: {self._path}: {error.strerror}."

    def _read(self) -> None:
        if self._path is None or not self._path.exists():
            return
        try:
            content = json.loads(self._path.read_text())
            if content["particles"] != self.count:
                raise ValueError(f"they are of {content['particles']} particles, not {self.count}")
            for entry in content["selections"]:
                mask = _unpack(base64.b64decode(entry["rows"]), self.count)
                steps = tuple(dict(step) for step in entry.get("steps", ()))
                self.named.append(
                    Selection(str(entry["name"]), mask, steps, float(entry["created"]), int(entry.get("colour", 0)))
                )
        except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:
            kept = self._path.with_name(f"{FILE}.damaged")
            self.problem = f"{self._path.name} was not read ({error}); it is kept as {kept.name}."
            with_error = self._path
            try:
                os.replace(with_error, kept)
            except OSError:
                self._path = None  # never write over what could not be read


def _unpack(data: bytes, count: int) -> np.ndarray:  # -> (N,) bool
    limit = (count + 7) // 8
    raw = zlib.decompressobj().decompress(data, limit)
    if len(raw) != limit:
        raise ValueError("a selection is damaged")
    return np.unpackbits(np.frombuffer(raw, np.uint8), count=count).astype(bool)


def class_step(column: Column, code: int, job: str) -> dict[str, Any]:
    """How a selection by class came about."""
    return {"shape": "class", "column": column.name, "values": [column.names[code]], "job": job, "time": time.time()}


def describe(steps: Sequence[dict[str, Any]]) -> str:
    """How a selection came about, in a line."""
    words = []
    for step in steps:
        shape = str(step.get("shape", ""))
        text = {
            "lasso": "lasso", "polygon": "polygon", "rectangle": "rectangle", "invert": "inverted",
        }.get(shape, shape)  # fmt: skip
        if step.get("x"):
            text += f" in {step['x']} / {step['y']}"
        if shape == "range":
            text = f"{step['column']} from {step['low']:.4g} to {step['high']:.4g}"
        elif shape == "class":
            text = f"{step['column']}: {', '.join(map(str, step['values']))}"
        elif shape == "selection":
            text = f"“{step['selection']}”"
        mode = step.get("mode", "replace")
        words.append({"add": "+ ", "subtract": "− ", "intersect": "∩ "}.get(str(mode), "") + text)
    return ", ".join(words)
