"""Figures for papers: the explorer's plots drawn anew with labels and scale on white, as PNG, SVG or PDF. No Qt.

Text stays text in SVG and PDF; large scatters are drawn as pictures inside the vector file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gaussianem_core.chimerax import COLOURS
from gaussianem_core.errors import InputError
from gaussianem_core.files import temporary_name
from gaussianem_gui.explorer import Column

FORMATS = (".png", ".svg", ".pdf")
DPI = 300
RASTER_FROM = 5000
DENSE_FROM = 50_000
WIDTH_INCHES = 3.5  # one column of a journal


def new_figure(width: float = WIDTH_INCHES, height: float = 3.0) -> Any:
    """An empty white figure, sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white", layout="constrained")


def save(figure: Any, path: Path) -> Path:
    """Write a figure, atomically, in the format that the name's ending says. Raises InputError for another ending."""
    if path.suffix.lower() not in FORMATS:
        raise InputError("figure", "must end in " + ", ".join(FORMATS), path.name, "Choose one of these.")
    import matplotlib

    temporary = temporary_name(path)
    try:
        with matplotlib.rc_context({"svg.fonttype": "none", "pdf.fonttype": 42, "font.size": 8, "axes.linewidth": 0.6}):
            figure.savefig(temporary, format=path.suffix.lower()[1:], dpi=DPI, facecolor="white")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def scatter(
    path: Path, points: np.ndarray, names: tuple[str, str], column: Column | None = None,
    mask: np.ndarray | None = None, way: np.ndarray | None = None, title: str = "",
) -> Path:  # points (N, 2), mask (N,) bool, way (P, 2)
    """All points of a plot, coloured by a column; the selection on top; a path."""
    figure = new_figure(4.2 if column is not None else WIDTH_INCHES)
    axes = figure.subplots()
    good = np.isfinite(points).all(axis=1)
    if good.sum() > DENSE_FROM and column is None:
        image = axes.hist2d(points[good, 0], points[good, 1], bins=300, cmap="Blues", norm="log", rasterized=True)[3]
        figure.colorbar(image, ax=axes, label="particles", shrink=0.8)
    else:
        size = 6.0 if good.sum() < 3000 else 2.0 if good.sum() < 30_000 else 0.4
        look = {"s": size, "linewidths": 0, "rasterized": bool(good.sum() > RASTER_FROM)}
        if column is None:
            axes.scatter(points[good, 0], points[good, 1], color=COLOURS[0], alpha=0.6, **look)
        elif column.classes:
            for code, name in enumerate(column.names[:20]):
                part = good & (column.values == code)
                axes.scatter(points[part, 0], points[part, 1], color=f"C{code % 10}", label=name, **look)
            axes.legend(markerscale=2, fontsize=6, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        else:
            low, high = np.nanpercentile(column.values, [1, 99])
            drawn = axes.scatter(points[good, 0], points[good, 1], c=column.values[good], cmap="viridis", vmin=low,
                                 vmax=high, **look)  # fmt: skip
            figure.colorbar(drawn, ax=axes, label=column.name, shrink=0.8)
    if mask is not None and mask.any():
        chosen = points[good & mask]
        axes.scatter(chosen[:, 0], chosen[:, 1], s=3, color=COLOURS[1], linewidths=0,
                     rasterized=bool(len(chosen) > RASTER_FROM), label=f"{int(mask.sum()):,} selected")  # fmt: skip
        if column is None or not column.classes:
            axes.legend(fontsize=7, frameon=False)
    if way is not None and len(way):
        axes.plot(*way.T, color="black", linewidth=1, marker="o", markersize=2)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    axes.set_title(title or f"{int(good.sum()):,} particles", fontsize=8)
    return save(figure, path)


def plane(
    path: Path, values: np.ndarray, extent: tuple[float, float, float, float], names: tuple[str, str], label: str,
    states: Sequence[tuple[float, float, str]] = (),
) -> Path:  # values (X, Y)
    """A quantity over two axes, with named places."""
    figure = new_figure(4.2)
    axes = figure.subplots()
    image = axes.imshow(values.T, origin="lower", extent=extent, aspect="auto", cmap="viridis")
    figure.colorbar(image, ax=axes, label=label, shrink=0.8)
    for x, y, name in states:
        axes.plot(x, y, "o", color="white", markeredgecolor="black", markersize=5)
        axes.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points", color="white", fontsize=7)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    return save(figure, path)


def profile(
    path: Path, x: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray, names: tuple[str, str], note: str = ""
) -> Path:  # each (P,)
    """A curve with its error band."""
    figure = new_figure()
    axes = figure.subplots()
    axes.fill_between(x, low, high, color=COLOURS[0], alpha=0.25, linewidth=0)
    axes.plot(x, y, color=COLOURS[0], linewidth=1.2)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    if note:
        axes.set_title(note, fontsize=6, wrap=True)
    return save(figure, path)


def picture(path: Path, pixels: np.ndarray, angstrom_per_pixel: float | None = None, title: str = "") -> Path:
    """A view (H, W, 3 or 4) uint8 with a scale bar where the scale is known."""
    height, width = pixels.shape[:2]
    if path.suffix.lower() == ".png" and not angstrom_per_pixel and not title:
        from PIL import Image

        temporary = temporary_name(path)
        try:
            Image.fromarray(pixels).save(temporary, format="PNG")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return path
    figure = new_figure(4.0, 4.0 * height / width)
    axes = figure.subplots()
    axes.imshow(pixels, interpolation="none")
    axes.set_axis_off()
    if angstrom_per_pixel:
        length = _nice(0.25 * width * angstrom_per_pixel)
        end = length / angstrom_per_pixel
        axes.plot([0.04 * width, 0.04 * width + end], [0.95 * height] * 2, color="black", linewidth=2)
        axes.text(0.04 * width + end / 2, 0.93 * height, f"{length:g} Å", ha="center", va="bottom", fontsize=7)
    if title:
        axes.set_title(title, fontsize=8)
    return save(figure, path)


def montage(path: Path, images: np.ndarray, titles: Sequence[str] = (), columns: int = 8) -> Path:  # (n, D, D)
    """Particle images in rows, each in its own grey scale."""
    rows = -(-len(images) // columns)
    figure = new_figure(columns * 0.8, rows * (0.95 if titles else 0.8))
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(grid.reshape(-1)):
        axes.set_axis_off()
        if place < len(images):
            low, high = np.percentile(images[place], [1, 99])
            axes.imshow(images[place], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            if titles:
                axes.set_title(titles[place], fontsize=5, pad=1)
    return save(figure, path)


def _nice(length: float) -> float:
    power = 10 ** np.floor(np.log10(length))
    return float(max(step * power for step in (1, 2, 5) if step * power <= length))


def bars(path: Path, counts: np.ndarray, names: tuple[str, str]) -> Path:  # counts (P,)
    """A bar a frame."""
    figure = new_figure(height=1.8)
    axes = figure.subplots()
    axes.bar(np.arange(1, len(counts) + 1), counts, color=COLOURS[0], width=0.8)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    return save(figure, path)
