"""Colours, fonts, icons and the style sheet: one dark and one light theme, one accent colour.

Views ask ``theme.colour("muted")`` and ``theme.icon("play")`` and repaint on ``theme.changed``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from pathlib import Path

from PySide6.QtCore import QByteArray, QObject, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QFont, QFontDatabase, QGuiApplication, QIcon, QPainter, QPalette, QPixmap
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QApplication

DARK = {
    "window": "#0e1116",
    "surface": "#151920",
    "raised": "#1c212a",
    "hover": "#232a35",
    "field": "#10141a",
    "border": "#272e3a",
    "strong": "#3a4352",
    "text": "#e8ebf0",
    "muted": "#97a1b0",
    "faint": "#687385",
    "accent": "#8b93ff",
    "accent_fill": "#5b62e8",
    "accent_hover": "#6a71f2",
    "accent_soft": "#23264a",
    "on_accent": "#ffffff",
    "success": "#3ecf8e",
    "danger": "#f2687a",
    "danger_soft": "#3a1d25",
    "warning": "#f0b34a",
    "warning_soft": "#362a14",
    "success_soft": "#14302a",
    "info": "#5fb0f5",
    "plot": "#12161c",
    "grid": "#2a313d",
    "selection": "#30356a",
}
LIGHT = {
    "window": "#f4f5f8",
    "surface": "#ffffff",
    "raised": "#f7f8fb",
    "hover": "#eef0f5",
    "field": "#ffffff",
    "border": "#e1e5ec",
    "strong": "#c5ccd8",
    "text": "#181c25",
    "muted": "#586274",
    "faint": "#737e91",
    "accent": "#474dd0",
    "accent_fill": "#5157e0",
    "accent_hover": "#4046c8",
    "accent_soft": "#ebecff",
    "on_accent": "#ffffff",
    "success": "#0d7a50",
    "danger": "#c9304a",
    "danger_soft": "#fdebee",
    "warning": "#8c5a00",
    "warning_soft": "#fff4dd",
    "success_soft": "#e4f6ee",
    "info": "#1b6fbf",
    "plot": "#ffffff",
    "grid": "#dfe3ea",
    "selection": "#d9dbff",
}
# Categorical colours of curves and classes, told apart by people with the common colour deficiencies (after Okabe-Ito).
SERIES = {
    "dark": [
        "#8b93ff",
        "#f0b34a",
        "#3ecf8e",
        "#f2687a",
        "#5fb0f5",
        "#d991e8",
        "#b7c95b",
        "#ff9d6b",
        "#6fd6d2",
        "#c0c6d1",
    ],
    "light": [
        "#4a50d6",
        "#c77700",
        "#11875a",
        "#c9304a",
        "#1b7fd0",
        "#9a3fb5",
        "#6d7d14",
        "#d9541e",
        "#0c8f8b",
        "#5c6675",
    ],
}
# State of a job: icon, colour, word. The word is always shown too: colour alone tells nobody enough.
STATES = {
    "draft": ("draft", "faint", "Draft"),
    "scheduled": ("clock", "info", "Scheduled"),
    "queued": ("queue", "info", "Queued"),
    "running": ("running", "accent", "Running"),
    "stopping": ("stop-circle", "warning", "Stopping"),
    "succeeded": ("check-circle", "success", "Succeeded"),
    "failed": ("x-circle", "danger", "Failed"),
    "aborted": ("stop-circle", "warning", "Aborted"),
    "lost": ("lost", "warning", "Lost"),
    "unknown": ("question", "faint", "Unknown"),
}
UI_FONTS = ["Inter", "SF Pro Text", "Segoe UI", "Cantarell", "Noto Sans", "Ubuntu", "DejaVu Sans"]
MONO_FONTS = ["JetBrains Mono", "SF Mono", "Cascadia Mono", "Noto Sans Mono", "DejaVu Sans Mono", "Liberation Mono"]


class Theme(QObject):
    """The theme in use; ``changed`` is sent after it was switched."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.name = "dark"
        self.choice = "dark"
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def colour(self, name: str) -> str:
        """Colour ``name`` of the palette as #rrggbb. KeyError if there is none of that name."""
        return (DARK if self.name == "dark" else LIGHT)[name]

    def series(self, index: int) -> str:
        """Colour of curve or class ``index`` as #rrggbb; they repeat."""
        colours = SERIES[self.name]
        return colours[index % len(colours)]

    def apply(self, choice: str) -> None:
        """Use the theme "dark", "light" or "system" in the whole application."""
        app = QApplication.instance()
        assert isinstance(app, QApplication)
        self.choice = choice
        self.name = choice if choice in ("dark", "light") else _system_theme()
        app.setStyle("Fusion")
        app.setPalette(_palette(self.colour))
        app.setFont(ui_font())
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="gaussianem-theme-")
        app.setStyleSheet(_style_sheet(self.colour, Path(self._folder.name), self.name))
        self.changed.emit()

    def icon(self, name: str, colour: str = "muted", gap: int = 0) -> QIcon:
        """Icon ``name`` of resources/icons in theme colour ``colour`` (or #rrggbb), ``gap`` pixels free beside it."""
        tint = colour if colour.startswith("#") else self.colour(colour)
        return _icon(name, tint, self.colour("faint"), gap)

    def pixmap(self, name: str, colour: str = "muted", size: int = 20) -> QPixmap:
        """Icon as a pixmap of ``size`` device-independent pixels."""
        tint = colour if colour.startswith("#") else self.colour(colour)
        return render_icon(name, tint, size)

    def state(self, state: str) -> tuple[QIcon, str, str]:
        """Icon, colour (#rrggbb) and word of a job state; those of "unknown" for another."""
        name, colour, word = STATES.get(state, STATES["unknown"])
        return self.icon(name, colour), self.colour(colour), word


theme = Theme()


def ui_font() -> QFont:
    """Font of the interface: the first of a short list that is installed."""
    font = QFont(_first_installed(tuple(UI_FONTS)))
    font.setPointSizeF(10)
    return font


def mono_font(points: float = 9.5) -> QFont:
    """Fixed-width font for logs and command lines, of so many points."""
    font = QFont(_first_installed(tuple(MONO_FONTS)))
    font.setStyleHint(QFont.StyleHint.Monospace)
    font.setPointSizeF(points)
    return font


@lru_cache
def _first_installed(names: tuple[str, ...]) -> str:
    installed = set(QFontDatabase.families())
    return next((name for name in names if name in installed), QFont().family())


def _system_theme() -> str:
    hints = QGuiApplication.styleHints()
    return "light" if hints.colorScheme() == Qt.ColorScheme.Light else "dark"


@lru_cache
def _svg(name: str) -> str:
    file = resources.files("gaussianem_resources") / "icons" / f"{name}.svg"
    return file.read_text()


def render_icon(name: str, colour: str, size: int, gap: int = 0) -> QPixmap:
    """Draw icon ``name`` with every currentColor replaced by ``colour`` (#rrggbb), ``size`` pixels a side, ``gap`` free
    beside it; crisp on high-density screens."""
    ratio = max((screen.devicePixelRatio() for screen in QGuiApplication.screens()), default=1.0)
    pixmap = QPixmap(round((size + gap) * ratio), round(size * ratio))
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    QSvgRenderer(QByteArray(_svg(name).replace("currentColor", colour).encode())).render(
        painter, QRectF(0, 0, pixmap.height(), pixmap.height())
    )
    painter.end()
    pixmap.setDevicePixelRatio(ratio)
    return pixmap


@lru_cache(maxsize=512)
def _icon(name: str, colour: str, disabled: str, gap: int) -> QIcon:
    icon = QIcon()
    for size in (16, 20, 24, 40):
        icon.addPixmap(render_icon(name, colour, size, gap))
        icon.addPixmap(render_icon(name, disabled, size, gap), QIcon.Mode.Disabled)
    return icon


def logo(size: int = 64) -> QPixmap:
    """The program's mark, ``size`` pixels a side."""
    return render_icon("logo", "#000000", size)


def _palette(colour: Callable[[str], str]) -> QPalette:
    palette = QPalette()
    role = QPalette.ColorRole
    for name, key in (
        (role.Window, "window"),
        (role.WindowText, "text"),
        (role.Base, "surface"),
        (role.AlternateBase, "raised"),
        (role.Text, "text"),
        (role.Button, "raised"),
        (role.ButtonText, "text"),
        (role.ToolTipBase, "raised"),
        (role.ToolTipText, "text"),
        (role.Highlight, "accent_fill"),
        (role.HighlightedText, "on_accent"),
        (role.Link, "accent"),
        (role.PlaceholderText, "faint"),
        (role.Mid, "border"),
        (role.Dark, "border"),
        (role.Light, "hover"),
        (role.BrightText, "danger"),
    ):
        palette.setColor(name, QColor(colour(key)))
    for name in (role.Text, role.WindowText, role.ButtonText):
        palette.setColor(QPalette.ColorGroup.Disabled, name, QColor(colour("faint")))
    return palette


def _style_sheet(colour: Callable[[str], str], folder: Path, name: str) -> str:
    images = {}
    for icon, key in (
        ("chevron-down", "muted"),
        ("chevron-up", "muted"),
        ("chevron-right", "muted"),
        ("check", "on_accent"),
        ("minus", "on_accent"),
    ):
        path = folder / f"{name}-{icon}.svg"
        path.write_text(_svg(icon).replace("currentColor", colour(key)))
        images[icon.replace("-", "_")] = path.as_posix()
    sheet = (resources.files("gaussianem_resources") / "style.qss").read_text()
    values = {**(DARK if name == "dark" else LIGHT), **images}
    for key in sorted(values, key=len, reverse=True):
        sheet = sheet.replace(f"${key}", values[key])
    return sheet
