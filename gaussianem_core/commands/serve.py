"""Serve: a trained model kept in memory that answers decode requests over its standard input and output.

The desktop application starts one such process for the model that is looked at. It loads torch and the network once,
so that a request costs the decoding alone. Requests of one channel replace each other: while one is decoded, only the
newest of those that arrive is kept. A series is interrupted for single requests (channel ``live``).

Requests (header of a message, see ``pipe``; ``z`` is an array (B, zdim)):

``decode``  id, channel, volumes (bool), gaussians (bool), box (0: the model's), longest (0, or voxels a side to which
            volumes are averaged down): one ``decoded`` reply a row, with arrays volume, positions, densities
``close``   ends the process

The first message out is ``ready`` (see :meth:`Decoder.greeting`), or ``failed`` with a text; a faulty request is
answered by ``error`` with its id and a text.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.pipe import PipeClosed, read_message, write_message

if TYPE_CHECKING:
    import torch

FIRST_CHANNEL = "live"


class Inbox:
    """Waiting requests, the newest of each channel. A thread reads them from ``stream``; :meth:`take` removes them.

    ``closed``: the other side has ended; ``dropped``: number of requests that a newer one replaced.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._waiting: dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]] = {}
        self._changed = threading.Condition()
        self.closed = False
        self.dropped = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while True:
                header, arrays = read_message(self._stream)
                if header.get("op") == "close":
                    break
                with self._changed:
                    channel = str(header.get("channel", FIRST_CHANNEL))
                    self.dropped += channel in self._waiting
                    self._waiting[channel] = (header, arrays)
                    self._changed.notify()
        except PipeClosed:
            pass
        with self._changed:
            self.closed = True
            self._changed.notify()

    def waiting(self, channel: str) -> bool:
        """True if a request of that channel waits."""
        with self._changed:
            return channel in self._waiting

    def take(self, channel: str | None = None, *, wait: bool = False) -> tuple[dict[str, Any], Any] | None:
        """The newest request (of ``channel``, else the first channel before the others); None if there is none."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._waiting or self.closed)
            names = [channel] if channel is not None else sorted(self._waiting, key=lambda n: (n != FIRST_CHANNEL, n))
            return self._waiting.pop(names[0], None) if names else None


class Decoder:
    """Decodes latents of one model into NumPy arrays. Raises InputError if the model's files cannot be read."""

    def __init__(self, cfg: Path, gaussians: Path | None, weights: Path, mask: Path | None, device: str) -> None:
        from gaussianem_core.model.trained_model import load_model

        self.model = load_model(cfg, weights, gaussians, mask, device)

    def greeting(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The ``ready`` message: figures of the model, and its consensus as arrays.

        positions (N, 3) and sigmas (N,) in world units ([-1, 1] across the box), densities (N,), volume (D, D, D).
        """
        model = self.model
        box = model.configuration.box
        volume = model.consensus_volume().cpu().numpy()
        header = {
            "type": "ready",
            "zdim": model.zdim,
            "box": box,
            "pixel_size_angstrom": model.pixel_size(box),
            "origin_angstrom": list(model.origin(box)),
            "gaussians": len(model.gaussians),
            "device": str(model.device),
            "mean": float(volume.mean()),
            "sigma": float(volume.std()),
            "movable": -1 if model.movable is None else int(model.movable.sum()),
        }
        g = model.gaussians
        arrays = {name: getattr(g, name).detach().cpu().numpy() for name in ("positions", "densities", "sigmas")}
        return header, {**arrays, "volume": volume}

    def decode(
        self, header: dict[str, Any], arrays: dict[str, np.ndarray]
    ) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
        """A reply for each row of ``z`` (B, zdim), with the arrays asked for.

        positions (N, 3) in world units, densities (N,), volume (d, d, d). Raises InputError for latents of another
        dimension.
        """
        from gaussianem_core.model.trained_model import check_latents

        z = check_latents(np.atleast_2d(arrays.get("z", np.empty((0, 0)))), self.model, "z")
        box = int(header.get("box") or self.model.configuration.box)
        for index, row in enumerate(z):
            began = time.perf_counter()
            deformed = self.model.deform(row[None])
            positions, densities = deformed.positions[0], deformed.densities[0]
            made: dict[str, np.ndarray] = {}
            if header.get("gaussians", True):
                made["positions"] = positions.cpu().numpy()
                made["densities"] = densities.cpu().numpy()
            if header.get("volumes", True):
                volume = self.model.volume(positions, densities, box)
                made["volume"] = shrink(volume, int(header.get("longest") or 0)).cpu().numpy()
            reply = {
                "type": "decoded",
                "id": header.get("id"),
                "channel": header.get("channel", FIRST_CHANNEL),
                "index": index,
                "count": len(z),
                "box": box,
                "seconds": time.perf_counter() - began,
            }
            yield reply, made


def shrink(volume: torch.Tensor, longest: int) -> torch.Tensor:  # (D, D, D) -> (d, d, d)
    """Average a volume down by a whole factor until it has at most ``longest`` voxels a side (0: as it is)."""
    import torch

    factor = -(-volume.shape[0] // longest) if longest else 1
    if factor <= 1:
        return volume
    return torch.nn.functional.avg_pool3d(volume[None, None], factor)[0, 0]


def serve(inbox: Inbox, decoder: Decoder, out: BinaryIO) -> None:
    """Answer until the other side closes. A series pauses for single requests, and ends when its channel has a newer
    one. Raises BrokenPipeError where nobody reads ``out`` any more."""
    current: tuple[str, Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]] | None = None
    while True:
        taken = inbox.take(FIRST_CHANNEL) if current is not None else inbox.take(wait=True)
        if taken is not None:
            header, arrays = taken
            channel = str(header.get("channel", FIRST_CHANNEL))
            replies = _guarded(decoder.decode(header, arrays), channel, header.get("id"))
            if channel != FIRST_CHANNEL:
                current = (channel, replies)
                continue
            for reply in replies:
                write_message(out, *reply)
                if inbox.waiting(FIRST_CHANNEL):
                    break
        elif current is not None:
            channel, replies = current
            if inbox.closed or inbox.waiting(channel):
                current = None
                continue
            found = next(replies, None)
            if found is None:
                current = None
            else:
                write_message(out, *found)
        elif inbox.closed:
            return


def _guarded(
    replies: Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]], channel: str, number: Any
) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Replies, or one that says what is wrong with the request: a faulty request must not end the process."""
    try:
        yield from replies
    except (InputError, ValueError, RuntimeError, MemoryError) as error:
        yield {"type": "error", "id": number, "channel": channel, "text": str(error) or type(error).__name__}, {}


def main(argv: Sequence[str] | None = None) -> int:
    """Load the model, send ``ready`` and answer requests. Returns 0, or 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(prog="gaussianem serve", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cfg", type=Path, required=True, help="configuration (cfg.json)")
    parser.add_argument("--model_weight", type=Path, required=True, help="trained parameters (weights.N.pkl)")
    parser.add_argument("--gaussians", type=Path, default=None, help="consensus Gaussians (point_cloud.ply)")
    parser.add_argument("--mask", type=Path, default=None, help="Gaussians that may move")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 takes all cores")
    options = parser.parse_args(argv)
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not end up among the messages
    inbox = Inbox(sys.stdin.buffer)
    try:
        if options.threads:
            import torch

            torch.set_num_threads(options.threads)
        decoder = Decoder(options.cfg, options.gaussians, options.model_weight, options.mask, options.device)
        greeting = decoder.greeting()
        for _ in decoder.decode({"box": 0}, {"z": np.zeros((1, decoder.model.zdim), np.float32)}):
            pass  # kernels are compiled now, not at the first click
        write_message(out, *greeting)
        serve(inbox, decoder, out)
    except InputError as error:
        write_message(out, {"type": "failed", "text": str(error)})
        return 2
    except BrokenPipeError:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
