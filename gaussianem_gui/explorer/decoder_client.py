"""A worker process of the engine that keeps one trained model in memory and decodes latents for the explorer.

No Qt and no torch here. Requests never block the caller; the newest of a channel wins, on both sides of the pipe.
Messages are JSON and raw arrays (``gaussianem_core.runtime.pipe``).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import numpy as np

from gaussianem_core.runtime.interpreter import python
from gaussianem_core.runtime.pipe import PipeClosed, read_message, write_message
from gaussianem_gui.explorer.sources import Sources

END_SECONDS = 3.0


@dataclass(frozen=True)
class Consensus:
    """The consensus of a model: positions (N, 3) x, y, z and sigmas (N,) in world units ([-1, 1] across the box),
    densities (N,), volume (D, D, D) with its mean and standard deviation."""

    zdim: int
    box: int
    pixel_size_angstrom: float
    origin_angstrom: tuple[float, float, float]
    device: str
    mean: float
    sigma: float
    positions: np.ndarray
    densities: np.ndarray
    sigmas: np.ndarray
    volume: np.ndarray

    @property
    def half_angstrom(self) -> float:
        """Length of one world unit, half the box, in Angstrom."""
        return self.box * self.pixel_size_angstrom / 2


@dataclass(frozen=True)
class Decoded:
    """One decoded latent, row ``index`` of the ``count`` of request ``id``: volume (d, d, d), positions (N, 3) in world
    units and densities (N,), or None where they were not asked for; times in seconds."""

    id: int
    channel: str
    index: int
    count: int
    box: int
    volume: np.ndarray | None
    positions: np.ndarray | None
    densities: np.ndarray | None
    seconds: float  # of work in the engine
    waited: float  # from request to answer


@dataclass
class Callbacks:
    """Called from the reader thread, never from the caller's."""

    ready: Callable[[Consensus], object]
    decoded: Callable[[Decoded], object]
    failed: Callable[[str], object]
    refused: Callable[[int, str], object] = field(default=lambda number, text: None)


class DecoderClient:
    """The application's side of the worker. ``start`` returns at once; requests wait until the worker is ready.

    ``dropped``: number of requests and answers that a newer request replaced.
    """

    def __init__(self, callbacks: Callbacks) -> None:
        self._callbacks = callbacks
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._writer: threading.Thread | None = None
        self._errors: Any = None
        self._changed = threading.Condition()
        self._outbox: dict[str, tuple[dict[str, Any], np.ndarray]] = {}
        self._sent: dict[int, float] = {}
        self._newest: dict[str, int] = {}
        self._count = 0
        self._closing = False
        self.ready = False
        self.dropped = 0

    def start(self, sources: Sources, device: str = "auto") -> None:
        """Start the process for a model; failures are passed to ``Callbacks.failed``.

        Raises InputError where there is no network.
        """
        weights, cfg = sources.model()
        words = ["--cfg", str(cfg), "--model_weight", str(weights), "--device", device]
        for flag, path in (("--gaussians", sources.gaussians), ("--mask", sources.mask)):
            if path is not None:
                words += [flag, str(path)]
        engine = shlex.split(os.environ.get("GAUSSIANEM_ENGINE", ""))
        command = [*engine, "serve", *words] if engine else python("-m", "gaussianem_core.commands.serve", *words)
        self._errors = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
            )
        except OSError as error:
            self._callbacks.failed(f"{command[0]} could not be started: {error.strerror}")
            return
        self._reader = threading.Thread(target=self._read, name="decoder-replies", daemon=True)
        self._writer = threading.Thread(target=self._write, name="decoder-requests", daemon=True)
        self._reader.start()
        self._writer.start()

    @property
    def pid(self) -> int:
        """Process id of the worker; 0 if there is none."""
        return self._process.pid if self._process is not None else 0

    def alive(self) -> bool:
        """True while the worker runs."""
        return self._process is not None and self._process.poll() is None

    def request(
        self,
        z: np.ndarray,
        *,
        channel: str = "live",
        box: int = 0,
        longest: int = 0,
        volumes: bool = True,
        gaussians: bool = True,
    ) -> int:  # z (zdim,) or (B, zdim)
        """Request the decoding of each row of ``z``; returns the request's number.

        Earlier requests of the channel are dropped. ``box``: voxels a side, 0 for the model's; ``longest``: voxels a
        side to which volumes are averaged down, 0 for none.
        """
        with self._changed:
            self._count += 1
            number = self._count
            header = {
                "op": "decode",
                "id": number,
                "channel": channel,
                "box": box,
                "longest": longest,
                "volumes": volumes,
                "gaussians": gaussians,
            }
            self.dropped += channel in self._outbox
            self._outbox[channel] = (header, np.atleast_2d(np.asarray(z, np.float32)))
            self._newest[channel] = number
            self._sent[number] = time.perf_counter()
            for old in [n for n in self._sent if n < number - 64]:
                del self._sent[old]
            self._changed.notify_all()
        return number

    def cancel(self, channel: str) -> None:
        """Drop the requests of a channel, and answers to them that still come."""
        with self._changed:
            self._outbox.pop(channel, None)
            self._newest[channel] = -1

    def close(self) -> None:
        """End the worker; it is killed if it does not end within END_SECONDS."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        process = self._process
        if process is None:
            return
        if self._writer is not None:
            self._writer.join(END_SECONDS)
        with contextlib.suppress(OSError, ValueError):
            assert process.stdin is not None
            process.stdin.close()
        try:
            process.wait(END_SECONDS if self.ready else 0.05)  # one that is still loading has nothing to finish
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join(END_SECONDS)
        if process.stdout is not None:
            process.stdout.close()
        self._errors.close()

    def _write(self) -> None:
        assert self._process is not None and self._process.stdin is not None
        stream = cast(BinaryIO, self._process.stdin)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or (self._outbox and self.ready))
                if self._closing:
                    return
                name = "live" if "live" in self._outbox else next(iter(self._outbox))
                header, z = self._outbox.pop(name)
            try:
                write_message(stream, header, {"z": z})
            except (OSError, ValueError):
                return

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        stream = cast(BinaryIO, self._process.stdout)
        try:
            while True:
                header, arrays = read_message(stream)
                self._take(header, arrays)
        except (PipeClosed, ValueError, OSError):
            pass
        if not self._closing:
            self._callbacks.failed(self._last_words())

    def _take(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        kind = header.get("type")
        if kind == "ready":
            model = Consensus(
                int(header["zdim"]),
                int(header["box"]),
                float(header["pixel_size_angstrom"]),
                tuple(header["origin_angstrom"]),
                str(header["device"]),
                float(header["mean"]),
                float(header["sigma"]) or 1.0,
                arrays["positions"],
                arrays["densities"],
                arrays["sigmas"],
                arrays["volume"],
            )
            self._callbacks.ready(model)
            with self._changed:
                self.ready = True
                self._changed.notify_all()
        elif kind == "decoded":
            number, channel = int(header["id"]), str(header["channel"])
            if self._newest.get(channel) != number:
                self.dropped += 1
                return
            waited = time.perf_counter() - self._sent.get(number, time.perf_counter())
            self._callbacks.decoded(
                Decoded(
                    number,
                    channel,
                    int(header["index"]),
                    int(header["count"]),
                    int(header["box"]),
                    arrays.get("volume"),
                    arrays.get("positions"),
                    arrays.get("densities"),
                    float(header["seconds"]),
                    waited,
                )
            )
        elif kind == "error":
            self._callbacks.refused(int(header["id"]), str(header["text"]))
        elif kind == "failed":
            self._closing = True
            self._callbacks.failed(str(header["text"]))

    def _last_words(self) -> str:
        """What the process said at its end."""
        code = self._process.wait() if self._process is not None else 0
        try:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
        except (OSError, ValueError):
            lines = []
        reason = lines[-1] if lines else "it said nothing"
        return f"The decoder ended unexpectedly (exit code {code}): {reason}"


__all__ = ["Callbacks", "Consensus", "Decoded", "DecoderClient"]
