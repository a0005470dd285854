"""The current selection of particles with undo, and named selections with the steps that made them, kept on disk."""

from __future__ import annotations

import base64
import json
import os
import socket
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.files import write_atomically
from gaussianem_core.runtime.readers import read_json_object
from gaussianem_gui.explorer.particle_columns import Column

FILE = "selections.json"


UNDO_STEPS = 100


MODES = ("replace", "add", "subtract", "intersect")


@dataclass(frozen=True)
class Selection:
    """A named selection: ``mask`` (N,) bool, the ``steps`` that made it, and when it was ``created`` (Unix seconds)."""

    name: str
    mask: np.ndarray
    steps: tuple[dict[str, Any], ...] = ()
    created: float = 0.0
    colour: int = 0

    @property
    def count(self) -> int:
        """Number of particles in it."""
        return int(np.count_nonzero(self.mask))


class Selections:
    """The current selection with undo and redo, and the named ones, kept in ``selections.json`` of the job.

    Every change is recorded as a step, with mode, shape, plot and source. ``problem`` is a sentence where the file
    could not be read or written.
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
        """Number of particles selected now."""
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
        """Select the particles that were not selected."""
        self._set(~self.mask, (*self.steps, {"shape": "invert"}))

    def clear(self) -> None:
        """Select nothing."""
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
        """A named selection. Raises InputError if there is none of that name."""
        for selection in self.named:
            if selection.name == name:
                return selection
        raise InputError("selection", "must be one of " + ", ".join(s.name for s in self.named), name, "Save it first.")

    def keep(self, name: str) -> Selection:
        """Save the current selection under a name, replacing one of that name.

        Raises InputError for an empty name or selection.
        """
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
        """Combine a named selection with the current one. Raises InputError if there is none of that name."""
        found = self.find(name)
        self.apply(found.mask, mode, {"shape": "selection", "selection": name, "steps": list(found.steps)})

    def remove(self, name: str) -> None:
        """Delete a named selection. Raises InputError if there is none of that name."""
        self.named.remove(self.find(name))
        self.save()

    def rename(self, name: str, new: str) -> None:
        """Rename a selection. Raises InputError if it does not exist, or the new name is empty or taken."""
        found, new = self.find(name), new.strip()
        if not new or any(s.name == new for s in self.named):
            raise InputError("name", "must be new and not empty", new, "Choose another name.")
        place = self.named.index(found)
        self.named[place] = Selection(new, found.mask, found.steps, found.created, found.colour)
        self.save()

    def free_name(self) -> str:
        """A name of the form "Selection N" that is not taken."""
        taken = {s.name for s in self.named}
        return next(f"Selection {i}" for i in range(1, len(taken) + 2) if f"Selection {i}" not in taken)

    # --- on disk ---

    def save(self) -> None:
        """Write the named selections; where the job's directory cannot be written, ``problem`` says so."""
        if self._path is None:
            return
        content = {
            "version": 1,
            "job": self.job,
            "particles": self.count,
            "host": socket.gethostname(),
            "selections": [
                {
                    "name": s.name,
                    "count": s.count,
                    "created": s.created,
                    "colour": s.colour,
                    "steps": list(s.steps),
                    "rows": base64.b64encode(zlib.compress(np.packbits(s.mask).tobytes())).decode(),
                }
                for s in self.named
            ],
        }
        try:
            write_atomically(self._path, json.dumps(content, indent=1) + "\n")
            self.problem = ""
        except OSError as error:
            self.problem = f"The selections are not saved: {self._path}: {error.strerror}."

    def _read(self) -> None:
        if self._path is None or not self._path.exists():
            return
        try:
            content = read_json_object(self._path, "selections", "Keep it for a look.")
            if content["particles"] != self.count:
                raise ValueError(f"they are of {content['particles']} particles, not {self.count}")
            for entry in content["selections"]:
                mask = _unpack(base64.b64decode(entry["rows"]), self.count)
                steps = tuple(dict(step) for step in entry.get("steps", ()))
                describe(steps)  # what cannot be told is damaged
                self.named.append(
                    Selection(str(entry["name"]), mask, steps, float(entry["created"]), int(entry.get("colour", 0)))
                )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, zlib.error) as error:
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


def class_step(column: Column, code: int) -> dict[str, Any]:
    """The step of a selection by class."""
    return {"shape": "class", "column": column.name, "values": [column.names[code]]}


def describe(steps: Sequence[dict[str, Any]]) -> str:
    """The steps of a selection, in a line of text."""
    words = []
    for step in steps:
        shape = str(step.get("shape", ""))
        text = {
            "lasso": "lasso",
            "polygon": "polygon",
            "rectangle": "rectangle",
            "invert": "inverted",
        }.get(shape, shape)
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
