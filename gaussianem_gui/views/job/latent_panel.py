"""The latents in the Results tab: two columns of a latents file as a scatter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PySide6.QtWidgets import QComboBox, QWidget

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.readers import NUMBERS, read_npy, read_npz
from gaussianem_gui.views.plots.scatter import Scatter
from gaussianem_gui.views.toolkit.widgets import column, label, row


class LatentPanel(QWidget):
    """Latents of all particles as a scatter of two columns, such as principal components; says which particle was
    clicked."""

    def __init__(self) -> None:
        super().__init__()
        self.scatter = Scatter("PC 1", "PC 2")
        self.scatter.setObjectName("latentScatter")
        self.x_axis, self.y_axis = QComboBox(), QComboBox()
        for combo, name in ((self.x_axis, "Horizontal axis"), (self.y_axis, "Vertical axis")):
            combo.setAccessibleName(name)
            combo.currentIndexChanged.connect(self._draw)
        self.count = label("", "muted")
        self.picked = label("", "hint")
        layout = column(spacing=8, margins=(14, 10, 14, 10))
        layout.addLayout(row(label("Axes", "muted"), self.x_axis, self.y_axis, None, self.count, spacing=8))
        layout.addWidget(self.scatter, 1)
        layout.addWidget(self.picked)
        self.setLayout(layout)
        self._columns: dict[str, np.ndarray] = {}
        self._values: np.ndarray | None = None
        self.scatter.pointPicked.connect(self._say)

    def set_table(self, columns: dict[str, np.ndarray], classes: np.ndarray | None) -> None:
        """Show columns (N,) by name; ``classes`` (N,), from 0, colour the points."""
        self._columns, self._values = columns, classes
        for combo, place in ((self.x_axis, 0), (self.y_axis, 1)):
            combo.blockSignals(True)
            combo.clear()
            combo.addItems(list(columns))
            combo.setCurrentIndex(min(place, len(columns) - 1))
            combo.blockSignals(False)
        self._draw()

    def _draw(self) -> None:
        x, y = self.x_axis.currentText(), self.y_axis.currentText()
        if x not in self._columns or y not in self._columns:
            return
        points = np.column_stack([self._columns[x], self._columns[y]])
        self.scatter.set_labels(x, y)
        self.scatter.set_points(points, self._values, classes=self._values is not None)
        self.count.setText(f"{len(points):,} particles")
        self.picked.setText("Click a point to see which particle it is")

    def _say(self, index: int) -> None:
        x, y = self.x_axis.currentText(), self.y_axis.currentText()
        group = f", class {int(self._values[index]) + 1}" if self._values is not None else ""
        self.picked.setText(
            f"Particle {index + 1:,}{group}: {x} {self._columns[x][index]:.3g}, {y} {self._columns[y][index]:.3g}"
        )


def latent_columns(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """By name, columns (N,) to plot, and classes (N,) if there are any, from a latents file (.pkl, .npz, .npy):
    principal components, then the dimensions; no column where no latent dimension tells the particles apart. Raises
    InputError."""
    classes = None
    try:
        if path.suffix == ".pkl":
            from gaussianem_core.analysis.latent_space import active_dimensions
            from gaussianem_core.io.latents import load_latents

            arrays = load_latents(path)
            z = np.asarray(arrays["z_mu"], dtype=float)
            if not active_dimensions(arrays).any():
                return {}, None
        elif path.suffix == ".npz":
            arrays = read_npz(path, str(path), "Choose another file.", frozenset(("z_mu", "z", "labels")), NUMBERS)
            z = np.asarray(arrays["z_mu" if "z_mu" in arrays else "z"], dtype=float)
            classes = arrays["labels"].astype(int) if "labels" in arrays else None
        else:
            z = np.atleast_2d(read_npy(path, str(path), "Choose another file.")).astype(float)
    except KeyError as error:
        raise InputError(str(path), "must hold latents", "none", "Choose another file.") from error
    z = z.reshape(len(z), -1)
    columns: dict[str, np.ndarray] = {}
    if z.shape[1] > 1:
        from gaussianem_core.analysis.latent_space import principal_components  # scikit-learn takes a second to start

        components = principal_components(z)
        scores = components.scores(z)
        columns = {f"PC {n + 1}": scores[:, n] for n in range(min(components.used, 6))}
    columns |= {f"z {n + 1}": z[:, n] for n in range(z.shape[1])}
    return columns, classes
