"""Maps laid over the one that is shown: an eye, a colour and an opacity for each, and the difference to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QColor, QPixmap
from PySide6.QtWidgets import QColorDialog, QFileDialog, QFrame, QMenu, QSlider, QToolButton, QWidget

from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import Elided, button, clear, column, icon_button, label, row, scrolled

WIDTH = 250
MOST_OFFERED = 60  # maps in the menu; others are opened as files
MAPS = "Maps (*.mrc *.map)"


@dataclass(eq=False)
class LaidOver:
    """A map beside the one that is shown; ``colour`` as "#rrggbb", ``opacity`` from 0 to 1."""

    path: Path
    name: str
    colour: str
    opacity: float = 0.6
    visible: bool = True
    difference: bool = False  # show where the map that is shown has more and less than this one


class MapList(QFrame):
    """The list of the maps laid over. ``changed`` comes with a map whose looks changed, ``added`` and ``removed`` with
    one that was."""

    added = Signal(object)
    changed = Signal(object)
    removed = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("mapList")
        self.setFixedWidth(WIDTH)
        self.maps: list[LaidOver] = []
        self._offered: list[tuple[str, Path]] = []
        self._rows = column(spacing=6)
        holder = QWidget()
        inside = column(spacing=0, margins=(0, 0, 6, 0))
        inside.addLayout(self._rows)
        inside.addStretch(1)
        holder.setLayout(inside)
        self.hint = label("Maps added here are drawn over the one that is shown.", "hint", wrap=True)
        self.add_button = button("Add a map", "", "plus", self._ask, name="addMap")
        layout = column(label("Maps laid over", "label"), self.hint, spacing=8, margins=(12, 10, 8, 10))
        layout.addWidget(scrolled(holder), 1)
        layout.addWidget(self.add_button)
        self.setLayout(layout)
        self.hide()
        theme.changed.connect(self._fill)

    def offer(self, maps: list[tuple[str, Path]]) -> None:
        """Set the maps (name, file) that the menu offers besides other files, MOST_OFFERED at most."""
        self._offered = maps[:MOST_OFFERED]

    def add(self, path: Path, name: str = "") -> LaidOver:
        """Lay a map over, in the next colour; returns its entry. The file's name without ending stands in for no
        ``name``."""
        made = LaidOver(path, name or path.stem, theme.series((len(self.maps) + 1) % 10))
        self.maps.append(made)
        self._fill()
        self.added.emit(made)
        return made

    def remove(self, laid: LaidOver) -> None:
        """Take a map away again."""
        self.maps.remove(laid)
        self._fill()
        self.removed.emit(laid)

    def clear(self) -> None:
        """Take all of them away."""
        for laid in list(self.maps):
            self.remove(laid)

    def _ask(self) -> None:
        menu = QMenu(self)
        there = {laid.path for laid in self.maps}
        for name, path in self._offered:
            if path not in there:
                menu.addAction(name, lambda p=path, n=name: self.add(p, n))
        menu.addSeparator()
        menu.addAction("A file …", self._ask_file)
        self._menu = menu
        menu.popup(self.add_button.mapToGlobal(self.add_button.rect().topLeft()))

    def _ask_file(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, "A map to lay over", "", MAPS)
        if chosen:
            self.add(Path(chosen))

    def _fill(self) -> None:
        clear(self._rows)
        self.hint.setVisible(not self.maps)
        for laid in self.maps:
            self._rows.addWidget(self._row(laid))

    def _row(self, laid: LaidOver) -> QFrame:
        eye = icon_button("explore", "Show or hide this map", checkable=True, size=16)
        eye.setObjectName("mapEye")
        eye.setChecked(laid.visible)
        eye.toggled.connect(lambda on: self._set(laid, visible=on))
        swatch = QToolButton()
        swatch.setProperty("kind", "ghost")
        swatch.setToolTip("Colour")
        swatch.setAccessibleName(f"Colour of {laid.name}")
        swatch.setIconSize(QSize(14, 14))
        _tint(swatch, laid.colour)
        swatch.clicked.connect(lambda _c=False: self._ask_colour(laid, swatch))
        opacity = QSlider(Qt.Orientation.Horizontal)
        opacity.setRange(5, 100)
        opacity.setValue(round(100 * laid.opacity))
        opacity.setAccessibleName(f"Opacity of {laid.name}")
        opacity.setToolTip("Opacity")
        opacity.valueChanged.connect(lambda value: self._set(laid, opacity=value / 100))
        differs = icon_button(
            "compare", "Difference: blue where the map shown has more, red less", checkable=True, size=16
        )
        differs.setObjectName("mapDifference")
        differs.setChecked(laid.difference)
        differs.toggled.connect(lambda on: self._set(laid, difference=on))
        away = icon_button("x", "Take this map away", lambda: self.remove(laid), size=14)
        name = Elided(laid.name)
        first = row(eye, swatch, spacing=2)
        first.addWidget(name, 1)
        first.addWidget(away)
        second = row(28, opacity, differs, spacing=4)
        second.setStretch(1, 1)
        holder = QFrame()
        inside = column(spacing=2)
        inside.addLayout(first)
        inside.addLayout(second)
        holder.setLayout(inside)
        return holder

    def _ask_colour(self, laid: LaidOver, swatch: QToolButton) -> None:
        chosen = QColorDialog.getColor(QColor(laid.colour), self, "Colour of the map")
        if chosen.isValid():
            _tint(swatch, chosen.name())
            self._set(laid, colour=chosen.name())

    def _set(self, laid: LaidOver, **looks: object) -> None:
        for name, value in looks.items():
            setattr(laid, name, value)
        self.changed.emit(laid)


def _tint(swatch: QToolButton, colour: str) -> None:
    pixmap = QPixmap(14, 14)
    pixmap.fill(QColor(colour))
    swatch.setIcon(pixmap)
