"""The events that a job has reported so far, read from its file while it runs. No Qt here.

``History`` follows one events file by offset and keeps every number in arrays that grow; ``Watcher`` polls many
histories and logs from one thread. Views never wait for it: they compare ``version`` numbers and take snapshots.
Sizes and times are polled, because change notices of the kernel do not arrive over network file systems.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gaussianem_core.job.events import EVENTS, parse_events
from gaussianem_core.runtime.plain_files import open_regular

CHUNK_BYTES = 1 << 16  # parsed and taken at once; small, so that views never wait long for the lock
POLL_SECONDS = 1.0
SWITCH_SECONDS = 0.001  # a thread that parses gives the interpreter back this often: Python's 5 ms add up to stalls


class Growing:
    """A growing table of float64, stored column by column; appending is amortised O(1)."""

    def __init__(self, columns: int) -> None:
        self._data = np.empty((columns, 256))
        self.size = 0

    def append(self, *values: float) -> None:
        """Add one row."""
        if self.size == self._data.shape[1]:
            larger = np.empty((len(self._data), 2 * self.size))
            larger[:, : self.size] = self._data
            self._data = larger
        self._data[:, self.size] = values
        self.size += 1

    def view(self) -> np.ndarray:  # (columns, n)
        """A view of all rows so far; later appends do not change it."""
        return self._data[:, : self.size]


@dataclass(frozen=True)
class Curve:
    """One reported quantity: ``step``, ``epoch``, ``value`` and ``time`` (Unix seconds) are (n,) arrays."""

    stage: str
    name: str
    step: np.ndarray
    epoch: np.ndarray
    value: np.ndarray
    time: np.ndarray


class Pollable(Protocol):
    """Something a Watcher polls."""

    def poll(self) -> bool:
        """Read what was added since the last call; True if there was anything."""
        ...


class History:
    """Everything in one job's events file.

    ``poll`` may be called from any one thread; the rest from any other. ``version`` grows with every change.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self.path = self.directory / EVENTS
        self.version = 0
        self.events = 0
        self._offset = 0
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._series: dict[tuple[str, str], Growing] = {}
        self.plan: list[str] = []  # stages that the job has, in order
        self.progress: dict[str, Any] | None = None
        self.progress_by_stage: dict[str, dict[str, Any]] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.starts: list[dict[str, Any]] = []
        self.end: dict[str, Any] | None = None

    def poll(self) -> bool:
        """Read the lines added since the last call; True if there were any."""
        changed = False
        while True:
            try:
                with open_regular(self.path) as file:
                    if os.fstat(file.fileno()).st_size < self._offset:  # the file was replaced
                        self._offset = 0
                        with self._lock:
                            self._clear()
                    file.seek(self._offset)
                    data = file.read(CHUNK_BYTES)
                    while data and b"\n" not in data:  # one line longer than a chunk
                        more = file.read(CHUNK_BYTES)
                        if not more:
                            break
                        data += more
            except OSError:
                return changed
            end = data.rfind(b"\n") + 1
            if end == 0:
                return changed
            self._take(data[:end])
            self._offset += end
            changed = True
            time.sleep(0)  # let the window's thread in

    def _take(self, data: bytes) -> None:
        events = parse_events(data)
        with self._lock:
            for event in events:
                with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError):  # a damaged event is skipped
                    self._add(event)
            self.events += len(events)
            self.version += 1

    def _add(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "metric":
            step, epoch, when = float(event["step"]), float(event["epoch"]), float(event.get("t", 0.0))
            for name, value in event["values"].items():
                series = self._series.setdefault((str(event["stage"]), str(name)), Growing(4))
                series.append(step, epoch, np.nan if value is None else float(value), when)
        elif kind == "plan":
            self.plan = [str(stage) for stage in event["stages"]]
            self.progress_by_stage = {}
        elif kind == "progress":
            self.progress = event
            self.progress_by_stage[str(event["stage"])] = event
        elif kind == "artifact":
            self.artifacts = [a for a in self.artifacts if a.get("path") != event["path"]] + [event]
        elif kind == "message":
            self.messages.append(event)
        elif kind == "start":
            self.starts.append(event)
            self.end = None
        elif kind == "end":
            self.end = event

    def names(self) -> list[tuple[str, str]]:
        """(stage, name) of every quantity, in order of first appearance."""
        with self._lock:
            return list(self._series)

    def has_curves(self) -> bool:
        """True if a quantity was reported more than once: a single number is no curve."""
        with self._lock:
            return any(series.size > 1 for series in self._series.values())

    def curve(self, stage: str, name: str) -> Curve:
        """A snapshot of one quantity; empty if it was never reported."""
        with self._lock:
            series = self._series.get((stage, name))
            rows = series.view() if series is not None else np.empty((4, 0))
        return Curve(stage, name, *rows)

    def latest(self, name: str) -> float | None:
        """The last number reported as ``name`` in any stage."""
        with self._lock:
            found = [s.view()[:, -1] for (_, key), s in self._series.items() if key == name and s.size]
        return float(max(found, key=lambda r: r[3])[2]) if found else None

    def made(self) -> list[dict[str, Any]]:
        """All artifacts, in order of appearance."""
        with self._lock:
            return list(self.artifacts)

    def artifacts_of(self, *kinds: str) -> list[dict[str, Any]]:
        """Artifacts of these kinds, in order of appearance."""
        with self._lock:
            return [a for a in self.artifacts if a.get("kind") in kinds]


class Watcher:
    """One thread that polls its items every ``seconds``."""

    def __init__(self, seconds: float = POLL_SECONDS) -> None:
        self._seconds = seconds
        self._watched: list[Pollable] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def add(self, item: Pollable) -> None:
        """Start to poll ``item``, at once for the first time."""
        with self._lock:
            if item not in self._watched:
                self._watched.append(item)
            if self._thread is None:
                sys.setswitchinterval(SWITCH_SECONDS)
                self._thread = threading.Thread(target=self._loop, name="watcher", daemon=True)
                self._thread.start()
        self._wake.set()

    def remove(self, item: Pollable) -> None:
        """Stop to poll ``item``."""
        with self._lock:
            self._watched = [w for w in self._watched if w is not item]

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _loop(self) -> None:
        while not self._stopped:
            self._wake.clear()
            with self._lock:
                items = list(self._watched)
            for item in items:
                if self._stopped:
                    return
                with contextlib.suppress(OSError):
                    item.poll()
            self._wake.wait(self._seconds)


def smooth(value: np.ndarray, window: int) -> np.ndarray:
    """Moving average over the last ``window`` values, NaN left out; (n,) -> (n,)."""
    if window <= 1 or len(value) < 2:
        return value
    good = np.isfinite(value)
    total = np.cumsum(np.where(good, value, 0.0))
    count = np.cumsum(good)
    total[window:] -= total[:-window].copy()
    count[window:] -= count[:-window].copy()
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _bins(n: int, bins: int) -> np.ndarray:
    return np.linspace(0, n, bins, endpoint=False).astype(np.int64)


def thin(x: np.ndarray, y: np.ndarray, bins: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """A long curve (n,), (n,) as minimum and maximum of each of ``bins`` bins, and its last point."""
    if len(x) <= 2 * bins:
        return x, y
    starts = _bins(len(x), bins)
    both = np.stack([np.fmin.reduceat(y, starts), np.fmax.reduceat(y, starts)], axis=1).ravel()
    return np.append(np.repeat(x[starts], 2), x[-1]), np.append(both, y[-1])


def average(x: np.ndarray, y: np.ndarray, bins: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """A long curve (n,), (n,) as the mean of each of ``bins`` bins, NaN left out, at the last x of each bin."""
    if len(x) <= 2 * bins:
        return x, y
    starts = _bins(len(x), bins)
    good = np.isfinite(y)
    total = np.add.reduceat(np.where(good, y, 0.0), starts)
    count = np.add.reduceat(good.astype(np.float64), starts)
    ends = np.append(starts[1:], len(x)) - 1
    return x[ends], np.where(count > 0, total / np.maximum(count, 1), np.nan)
