"""Asks the graphics driver who it is, in a process of its own: a driver that crashes takes only this process along.

Run as ``python -m gaussianem_gui.views.plots.opengl_probe``; prints one line, ANSWER and JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass

from gaussianem_core.runtime.interpreter import python

SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software", "swiftshader", "gdi generic", "swr")
TIMEOUT_SECONDS = 40
ANSWER = "OpenGL: "
REMEDIES = {
    "none": "3D needs OpenGL. On a remote computer use a desktop with OpenGL (VirtualGL, TurboVNC, NoMachine or an X "
    "server with GLX); slices work without it.",
    "software": "3D is drawn by the processor, so volumes are shown coarser. Connect with VirtualGL or work at the "
    "computer itself to use its graphics card.",
}


@dataclass(frozen=True)
class OpenGL:
    """What draws 3D here: ``renderer`` and ``version`` in the driver's words, or ``reason``, why there is none."""

    available: bool
    renderer: str = ""
    version: str = ""
    reason: str = ""

    @property
    def software(self) -> bool:
        """True if the processor draws."""
        return any(word in self.renderer.lower() for word in SOFTWARE)

    @property
    def remedy(self) -> str:
        """What the user can do about it, or ""."""
        return REMEDIES["none"] if not self.available else (REMEDIES["software"] if self.software else "")


def probe() -> OpenGL:
    """Ask in another process, which has TIMEOUT_SECONDS; for a worker thread. A driver that crashes or does not answer
    is no error: it gives an OpenGL that is not available, and why."""
    command = python("-m", "gaussianem_gui.views.plots.opengl_probe")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=dict(os.environ))
    except (OSError, subprocess.TimeoutExpired) as error:
        return OpenGL(False, reason=f"the graphics driver did not answer ({type(error).__name__})")
    lines = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]  # drivers print lines of their own
    if done.returncode < 0:
        return OpenGL(False, reason=f"the graphics driver crashed (signal {-done.returncode})")
    if not lines:
        return OpenGL(False, reason=(done.stderr.strip().splitlines() or ["no answer from the graphics driver"])[-1])
    return OpenGL(**json.loads(lines[-1].removeprefix(ANSWER)))


def main() -> int:
    """Make an OpenGL context and print what it says as JSON; returns 0."""
    from PySide6.QtGui import QGuiApplication, QOffscreenSurface, QOpenGLContext

    app = QGuiApplication([])
    context, surface = QOpenGLContext(), QOffscreenSurface()
    answer: dict[str, object] = {"available": False, "reason": f"Qt's {app.platformName()} platform has no OpenGL"}
    if context.create():
        surface.create()
        if context.makeCurrent(surface):
            functions = context.functions()
            renderer, version = functions.glGetString(0x1F01), functions.glGetString(0x1F02)
            answer = {"available": bool(renderer), "renderer": str(renderer), "version": str(version), "reason": ""}
            context.doneCurrent()
        else:
            answer["reason"] = "an OpenGL context was made but could not be used"
    print(ANSWER + json.dumps(answer))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
