"""What the computer is doing: GPUs with memory and load, processor, memory, disk."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt, QTimer
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from gaussianem_gui.units import bytes_text
from gaussianem_gui.views.project_model import Load
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import Elided, clear, column, label, row, scrolled


class Meter(QWidget):
    """A thin bar filled to ``share`` (0 to 1); red above ``alarm``."""

    def __init__(self, share: float, *, alarm: float = 0.95) -> None:
        super().__init__()
        self.share, self._alarm = min(max(share, 0.0), 1.0), alarm
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName(f"{100 * self.share:.0f} %")

    def sizeHint(self) -> QSize:
        return QSize(60, 5)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(theme.colour("border")))
        painter.drawRoundedRect(QRectF(0, 0, self.width(), 5), 2.5, 2.5)
        painter.setBrush(QColor(theme.colour("danger" if self.share > self._alarm else "accent_fill")))
        painter.drawRoundedRect(QRectF(0, 0, max(self.width() * self.share, 4), 5), 2.5, 2.5)


class MachinePanel(QWidget):
    """A line for each GPU, then processor, memory and disk."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("machinePanel")
        self.setAccessibleName("This computer")
        self._lines = column(spacing=7, margins=(14, 9, 12, 10))
        inside = column(spacing=0)
        inside.addLayout(self._lines)
        inside.addStretch(1)
        content = QWidget()
        content.setObjectName("machineLines")
        content.setLayout(inside)
        self.area = scrolled(content)  # eight GPUs are more than a small screen has room for
        self.setLayout(column(self.area, spacing=0))
        self.setMinimumHeight(84)

    def show_load(self, load: Load) -> None:
        """Show the newest figures of the machine."""
        self.area.setUpdatesEnabled(False)  # new lines are there with the next event: no empty panel until then
        QTimer.singleShot(0, self, lambda: self.area.setUpdatesEnabled(True))
        clear(self._lines)
        kinds = {gpu.name for gpu in load.gpus}
        if len(kinds) == 1:
            name = kinds.pop()
            self._lines.addWidget(Elided(f"{len(load.gpus)} × {name}" if len(load.gpus) > 1 else name, "faint"))
        for gpu in load.gpus:
            used = f"{gpu.memory_used / 2**30:.0f} / {gpu.memory_total / 2**30:.0f} GiB"
            busy = f" · {100 * gpu.load:.0f} %" if gpu.load is not None else ""
            name = f"GPU {gpu.index}"
            self._line(
                name,
                used + busy,
                gpu.memory_used / max(gpu.memory_total, 1),
                " · ".join(filter(None, [gpu.name if len(kinds) > 1 else "", gpu.job.rstrip("/")])),
            )
        if not load.gpus:
            self._lines.addWidget(Elided("No NVIDIA GPU: jobs run on the processor", "hint"))
        self._line("Processor", f"{100 * load.cpu:.0f} %", load.cpu, alarm=1.1)
        used_memory, memory = load.memory
        self._line("Memory", f"{used_memory / 2**30:.0f} / {memory / 2**30:.0f} GiB", used_memory / max(memory, 1))
        free, total = load.disk
        if total:
            self._line("Disk", f"{bytes_text(free)} free", 1 - free / total)

    def _line(self, name: str, value: str, share: float, note: str = "", alarm: float = 0.95) -> None:
        title, words = label(name, "hint"), label(value, "hint")
        words.setMinimumWidth(max(96, words.sizeHint().width()))
        words.setAlignment(Qt.AlignmentFlag.AlignRight)
        line = row(title, Meter(share, alarm=alarm), words, spacing=10)
        title.setFixedWidth(64)
        self._lines.addLayout(line)
        if note:
            self._lines.addWidget(Elided(note, "faint"))
