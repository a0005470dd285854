"""Figures as PNG files for print, with units and colours safe for colour-blind readers. No display needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gaussianem_core.io.chimerax import COLOURS
from gaussianem_core.job.events import WITH_IMAGES
from gaussianem_core.runtime.files import replacing

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "axes.linewidth": 0.8,
}
DPI = 200
DENSE = 20_000
"""Number of points above which a scatter becomes a density image."""


@contextmanager
def figure(path: Path, columns: int = 1, rows: int = 1, size: tuple[float, float] = (4.2, 3.4)) -> Iterator[list[Axes]]:
    """Context with the axes, row by row, of a figure that is written to ``path`` (atomically) when the block ends.

    ``size``: width and height of a panel in inches.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc in the working directory, which may be someone else's, is ignored
        matplotlib.rcParams.update(STYLE)
        fig = Figure(figsize=(columns * size[0], rows * size[1]), dpi=DPI, layout="constrained")
        FigureCanvasAgg(fig)
        axes = fig.subplots(rows, columns, squeeze=False)
        yield list(axes.flat)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            images = any(ax.images for ax in fig.axes)
            fig.savefig(temporary, format="png", metadata={WITH_IMAGES: "yes"} if images else None)


def fsc_curves(fsc: dict[str, Any], path: Path) -> None:
    """Draw the mean FSC of decoded volumes and consensus with the truth, and each particle's FSC area over its state.

    ``fsc``: the entry of that name in Evaluate's ``evaluate.json``.
    """
    states = np.array(fsc["states"], dtype=float)
    with_states = bool(np.isfinite(states).all() and np.ptp(states) > 0)
    with figure(path, columns=1 + with_states) as axes:
        ax = axes[0]
        shells = np.arange(len(fsc["model"]["curve"]))
        frequency = shells / (2 * len(shells)) / fsc["pixel_size_angstrom"]
        names = {"model": "Decoded volumes", "consensus": "Consensus", "consensus_map": "Consensus map"}
        for i, (name, label) in enumerate((name, label) for name, label in names.items() if name in fsc):
            ax.plot(frequency, fsc[name]["curve"], color=COLOURS[i], label=f"{label}: area {fsc[name]['area']:.3f}")
            ax.plot(
                frequency,
                fsc[f"{name}_masked"]["curve"],
                color=COLOURS[i],
                linestyle="--",
                linewidth=1,
                label=f"{label}, masked: {fsc[f'{name}_masked']['area']:.3f}",
            )
        ax.set(xlabel="Spatial frequency (1/Å)", ylabel="Mean FSC with the true volume", ylim=(-0.05, 1.05))
        ax.axhline(0.5, color="0.7", linewidth=0.6, zorder=0)
        ax.legend(loc="lower left")
        if with_states:
            for i, (name, label) in enumerate((("model", "Decoded volume"), ("consensus", "Consensus"))):
                axes[1].plot(states, fsc[name]["areas"], ".", color=COLOURS[i], label=label, markersize=4)
            axes[1].set(xlabel="True state", ylabel=f"FSC area (at most {fsc['limit']:.3f})")
            axes[1].legend()


def cloud(ax: Axes, points: np.ndarray, colour: str = COLOURS[0]) -> None:  # (N, 2)
    """Draw points as a scatter, or as a density image where there are more than DENSE."""
    if len(points) > DENSE:
        low, high = np.percentile(points, [0.05, 99.95], axis=0)
        counts, xs, ys = np.histogram2d(points[:, 0], points[:, 1], bins=200, range=np.stack([low, high], axis=1))
        shown = np.ma.masked_equal(np.log1p(counts.T), 0)
        ax.pcolormesh(xs, ys, shown, cmap="Blues", rasterized=True)
    else:
        size = max(0.6, min(8.0, 6000 / len(points)))
        ax.scatter(points[:, 0], points[:, 1], s=size, linewidths=0, alpha=0.5, color=colour, rasterized=True)


def label_component(number: int, ratio: float) -> str:
    """Axis label of principal component ``number`` (from 0) with the share ``ratio`` of the variance."""
    return f"Component {number + 1} ({100 * ratio:.0f} % of variance)"


def annotate_classes(ax: Axes, points: np.ndarray, names: Sequence[str]) -> None:  # (K, 2)
    """Mark class centres with their names."""
    ax.plot(*points.T, "o", color="white", markeredgecolor="black", markersize=9)
    for point, name in zip(points, names):
        ax.annotate(name, point, ha="center", va="center", fontsize=6)
