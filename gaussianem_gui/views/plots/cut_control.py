"""Cuts a volume open: how deep, and from where."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QComboBox, QSlider, QWidget

from gaussianem_gui.explorer.volumes import Cut, Picture, cut_at
from gaussianem_gui.views.toolkit.widgets import label, row

KINDS = {"front": "from the front", "z": "along z", "y": "along y", "x": "along x"}
AXES = {"z": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "x": (0.0, 0.0, 1.0)}
Direction = tuple[float, float, float]  # z, y, x


class CutControl(QWidget):
    """A menu and a slider; ``changed`` comes when they are moved. ``towards``: gives the direction z, y, x to the one
    who looks."""

    changed = Signal()

    def __init__(self, towards: Callable[[], Direction]) -> None:
        super().__init__()
        self._towards = towards
        self._normal: Direction = (0.0, 0.0, 1.0)
        self.plane: Cut | None = None  # it stands still in the molecule, whichever picture of a group is shown
        self.kind = QComboBox()
        self.kind.setAccessibleName("Where the cut comes from")
        for key, text in KINDS.items():
            self.kind.addItem(text, key)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, 100)
        self.slider.setFixedWidth(80)
        self.slider.setAccessibleName("Depth of the cut")
        self.slider.setToolTip("Cut the molecule open")
        self.setLayout(row(label("Cut", "muted"), self.kind, self.slider, spacing=8))
        self.slider.valueChanged.connect(self._moved)
        self.kind.currentIndexChanged.connect(self._moved)

    def reset(self) -> None:
        """Take the cut away."""
        self.slider.setValue(0)
        self.kind.setCurrentIndex(0)

    def place(self, picture: Picture | None, level: float) -> None:
        """Put ``plane`` at the slider's depth into what is above ``level`` (map's units) of a picture; None without a
        picture or a cut."""
        share = self.slider.value() / 100
        self.plane = cut_at(picture, level, self._normal, share) if picture is not None else None

    def _moved(self) -> None:
        kind = self.kind.currentData()
        self._normal = self._towards() if kind == "front" else AXES[kind]
        self.changed.emit()
