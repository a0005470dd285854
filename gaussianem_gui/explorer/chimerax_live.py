"""Commands to a running ChimeraX over its REST interface. No Qt.

In ChimeraX ``remotecontrol rest start port 60001 json true`` makes it listen on this machine; a command is then a GET
of ``/run?command=...``, answered with what the command says: as JSON (keys "log messages", "error", ...) or, without
``json true``, as text (ChimeraX user guide, "Command: remotecontrol").
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.io.chimerax import COLOURS
from gaussianem_core.io.mrc import write_map

PORT = 60001
SECONDS = 20.0  # a large map takes ChimeraX a moment
MODEL = 900
"""Number of the model in ChimeraX that follows the clicked point, far from those of the user's models."""


class ChimeraX:
    """Commands to the ChimeraX that listens on ``port`` of this machine."""

    def __init__(self, port: int = PORT) -> None:
        self.port = port
        self._direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def run(self, command: str) -> str:
        """ChimeraX's answer to a command. Raises InputError if none listens, or if it refuses the command."""
        address = f"http://127.0.0.1:{self.port}/run?{urllib.parse.urlencode({'command': command})}"
        try:
            with self._direct.open(address, timeout=SECONDS) as reply:
                text = reply.read().decode("utf-8", "replace")
        except (OSError, urllib.error.URLError) as error:
            remedy = f"In ChimeraX type: remotecontrol rest start port {self.port} json true"
            raise InputError("ChimeraX", f"must listen on port {self.port}", error, remedy) from error
        return _answer(text, command)

    def open_file(self, path: Path) -> None:
        """Open a map or atomic model, or run a .cxc script. Raises InputError as :meth:`run` and :func:`quoted`."""
        self.run(f"open {quoted(path)}")

    def follow(
        self, volume: np.ndarray, pixel_angstrom: float, origin: tuple[float, float, float], level: float, folder: Path
    ) -> None:  # (D, D, D)
        """Show a volume [z, y, x], contoured at ``level``, in place of the one shown before.

        The camera and other models stay. ``origin``: x, y, z (A) of the first voxel; ``folder``: where the map is
        written. Raises InputError as :meth:`run`.
        """
        path = folder / "clicked_point.mrc"
        write_map(path, volume.astype(np.float32), pixel_angstrom, origin)
        try:
            self.run(f"close #{MODEL}")
        except InputError as error:
            if "listen" in str(error):
                raise
        self.run(f"open {quoted(path)} id {MODEL}")
        self.run(f"volume #{MODEL} style surface step 1 level {level:.6g} color {COLOURS[0]}")


def quoted(path: Path) -> str:
    """A path as one quoted word of a command. Raises InputError for a quotation mark, semicolon or line break in it."""
    text = str(path.resolve())
    if any(sign in text for sign in '";\n\r'):
        raise InputError("path", "must hold no quotation mark, semicolon or line break for ChimeraX", path, "Move it.")
    return f'"{text}"'


def _answer(text: str, command: str) -> str:
    try:
        content = json.loads(text)
    except ValueError:
        return text
    if not isinstance(content, dict):
        return text
    if error := content.get("error"):
        words = error.get("message", error) if isinstance(error, dict) else error
        raise InputError("ChimeraX", f"must take the command {command!r}", words, "Read ChimeraX's log.")
    messages = content.get("log messages") or {}
    return "\n".join(str(line) for lines in messages.values() for line in lines) if isinstance(messages, dict) else text
