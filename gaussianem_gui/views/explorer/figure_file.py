"""Asks where to write a figure."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtWidgets import QFileDialog, QWidget


def ask_figure(parent: QWidget, name: str) -> Path | None:
    """The file that the user chooses for a figure (PDF, SVG or PNG), ``name`` offered; None if none."""
    chosen, _ = QFileDialog.getSaveFileName(parent, "Save the figure", name, "PDF, SVG or PNG (*.pdf *.svg *.png)")
    return Path(chosen) if chosen else None
