"""Versions and the OpenGL renderer, for a report."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import (
    QLabel,
    QPlainTextEdit,
    QWidget,
)

from gaussianem_core import __version__
from gaussianem_gui.views.plots.opengl_probe import OpenGL
from gaussianem_gui.views.toolkit.theme import logo, mono_font
from gaussianem_gui.views.toolkit.widgets import button, column, label, row
from gaussianem_gui.views.window.dialog import Dialog

PACKAGES = ("PySide6", "pyqtgraph", "napari", "vispy", "numpy", "torch", "triton", "umap-learn", "nvidia-ml-py")


def versions(opengl: OpenGL | None) -> str:
    """Versions of everything that matters for a report, one a line."""
    lines = [
        f"GaussianEM {__version__}",
        f"Python {sys.version.split()[0]}",
        f"{platform.system()} {platform.release()}",
        f"Qt platform {QGuiApplication.platformName()}",
    ]
    for package in PACKAGES:
        try:
            lines.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{package}: not installed")
    if opengl is None:
        lines.append("OpenGL: not asked yet")
    elif opengl.available:
        lines.append(f"OpenGL {opengl.version}, {opengl.renderer}" + (" (software)" if opengl.software else ""))
    else:
        lines.append(f"OpenGL: none, {opengl.reason}")
    return "\n".join(lines)


def about(parent: QWidget | None, opengl: OpenGL | None) -> Dialog:
    """The dialog with the program's name and versions, not yet shown."""
    dialog = Dialog(parent, "About GaussianEM", 520)
    mark = QLabel()
    mark.setPixmap(logo(56))
    words = column(
        label(f"GaussianEM {__version__}", "title"),
        label(
            "Continuous and discrete motion in cryo-EM, with 3D Gaussians (He et al., arXiv 2512.21599).",
            "muted",
            wrap=True,
        ),
        spacing=4,
    )
    head = row(mark, spacing=16)
    head.addLayout(words, 1)
    text = QPlainTextEdit(versions(opengl))
    text.setReadOnly(True)
    text.setFont(mono_font(9))
    text.setMinimumHeight(230)
    text.setAccessibleName("Versions")
    dialog.body.addLayout(head)
    dialog.body.addWidget(label("Versions and graphics, for a report", "section"))
    dialog.body.addWidget(text)
    dialog.buttons.addWidget(
        button("Copy", "", "copy", lambda: QGuiApplication.clipboard().setText(text.toPlainText()))
    )
    dialog.add_close()
    return dialog
