"""A bar chart of the particles nearest to each frame of a trajectory."""

from __future__ import annotations

import numpy as np
from PySide6.QtCore import QPointF
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QWidget

from gaussianem_gui.views.toolkit.theme import theme


class CountBar(QWidget):
    """Particles nearest to each frame; frames where hardly any particle is stand out."""

    def __init__(self) -> None:
        super().__init__()
        self.setMinimumHeight(44)
        self.setMaximumHeight(150)
        self.counts = np.zeros(0, int)
        self.unpopulated = np.zeros(0, bool)
        self.frame = 0
        self.setAccessibleName("Particles per frame")

    def set_counts(self, counts: np.ndarray, unpopulated: np.ndarray) -> None:  # (P,), (P,) bool
        """Show how many particles are nearest to each of P frames, and which of these hardly any particle is near."""
        self.counts, self.unpopulated, self.frame = counts, unpopulated, 0
        tip = f"{int(counts.sum()):,} particles along the path; red: hardly any particle is near"
        self.setToolTip(tip if len(counts) else "")
        self.update()

    def set_frame(self, index: int) -> None:
        """Mark a frame, counted from 0."""
        self.frame = index
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        if not len(self.counts):
            return
        painter = QPainter(self)
        margin = 7.0  # the slider's half width, so that bars stand below their frame
        step = (self.width() - 2 * margin) / max(len(self.counts) - 1, 1)
        top, foot = max(int(self.counts.max()), 1), 15
        for i, count in enumerate(self.counts):
            colour = QColor(theme.colour("danger" if self.unpopulated[i] else "accent"))
            colour.setAlpha(255 if i == self.frame else 130)
            high = max(1.0, count / top * (self.height() - foot - 2))
            painter.fillRect(
                int(margin + i * step - max(step * 0.38, 1)),
                int(self.height() - foot - high),
                int(max(step * 0.76, 2)),
                int(high) + 1,
                colour,
            )
        painter.setPen(QColor(theme.colour("muted")))
        font = painter.font()
        font.setPointSizeF(8)
        painter.setFont(font)
        text = f"{int(self.counts[self.frame]):,} of {int(self.counts.sum()):,} particles are nearest to this frame"
        painter.drawText(QPointF(margin, self.height() - 3), text)
