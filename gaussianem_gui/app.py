"""``gaussianem-gui [PROJECT]``: starts the desktop application. No torch, no napari at start: what is slow
to load comes in the background, once the window is there."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gaussianem_core import __version__
from gaussianem_core.runtime.interpreter import distrust_working_directory

ORGANISATION = NAME = "gaussianem"
QUIET_MILLISECONDS = 1500  # after the first window, before the libraries of 3D and explorer are loaded


def parser() -> argparse.ArgumentParser:
    """The parser of the command line: directory of the project, theme, version."""
    found = argparse.ArgumentParser(prog="gaussianem-gui", description="The GaussianEM desktop application.")
    found.add_argument("project", nargs="?", default="", help="directory of a GaussianEM or RELION project")
    found.add_argument("--theme", choices=["dark", "light", "system"], help="colours for this run")
    found.add_argument("--version", action="version", version=f"GaussianEM {__version__}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Open the window and run until it is closed; returns the exit code, 2 where PySide6 or a display is missing.

    ``argv``: the arguments after the program's name, those of the process if None.
    """
    arguments = parser().parse_args(list(sys.argv[1:] if argv is None else argv))
    distrust_working_directory()
    try:
        from PySide6.QtCore import QLibraryInfo
    except ImportError as error:
        print(
            f"gaussianem-gui: the desktop parts are not installed ({error}). "
            "Install them with: pip install 'gaussianem[gui]'",
            file=sys.stderr,
        )
        return 2
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or os.environ.get("QT_QPA_PLATFORM")
    ):
        print(
            "gaussianem-gui: no display. Connect with X forwarding (ssh -X), a remote desktop (TurboVNC, NoMachine, "
            "X2Go), or set DISPLAY. The command line does everything too: gaussianem job --help",
            file=sys.stderr,
        )
        return 2
    del QLibraryInfo
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QApplication

    from gaussianem_gui.project.settings import Settings
    from gaussianem_gui.views.toolkit.theme import theme

    existing = QApplication.instance()
    app = existing if isinstance(existing, QApplication) else QApplication([sys.argv[0] if sys.argv else NAME])
    app.setOrganizationName(ORGANISATION)
    app.setApplicationName(NAME)
    app.setApplicationDisplayName("GaussianEM")
    app.setDesktopFileName(NAME)
    settings = Settings()
    theme.apply(arguments.theme or str(settings.get("theme")))

    from gaussianem_gui.views.window.main_window import MainWindow

    window = MainWindow(settings)
    window.guard.install()
    window.show()
    if arguments.project:
        path = Path(arguments.project)
        window.open_project(path)
    QTimer.singleShot(QUIET_MILLISECONDS, window.pages.load_in_background)
    spare_the_collector()
    return int(app.exec())


def spare_the_collector() -> None:
    """Take what the program is made of out of garbage collection.

    Going through its modules and widgets takes Python 80 ms, in which the window stands still; they stay until the end.
    """
    gc.freeze()


if __name__ == "__main__":
    raise SystemExit(main())
