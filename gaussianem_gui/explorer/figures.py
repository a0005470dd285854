"""Figures for papers: the explorer's plots with labels and scale on white, as PNG, SVG or PDF. No Qt.

Text stays text in SVG and PDF; large scatter plots are rasterised inside the vector file. The functions that draw
return the path written, and raise InputError for a file name with another ending.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.io.chimerax import COLOURS
from gaussianem_core.runtime.files import replacing
from gaussianem_gui.explorer.particle_columns import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
FORMATS = (".png", ".svg", ".pdf")
DPI = 300
RASTER_FROM = 5000
DENSE_FROM = 50_000
WIDTH_INCHES = 3.5  # one column of a journal
MOST_CLASSES = 20  # named in a legend
FADED = 0.15  # opacity of what is not selected
LOOK: dict[Any, Any] = {"svg.fonttype": "none", "pdf.fonttype": 42, "font.size": 8, "axes.linewidth": 0.6}


def new_figure(width: float = WIDTH_INCHES, height: float = 3.0) -> Figure:
    """An empty white figure, sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white", layout="constrained")


def save(figure: Figure, path: Path) -> Path:
    """Write a figure, atomically, in the format of the name's ending. Raises InputError for one not in FORMATS."""
    if path.suffix.lower() not in FORMATS:
        raise InputError("figure", "must end in " + ", ".join(FORMATS), path.name, "Choose one of these.")
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lower()[1:], dpi=DPI, facecolor="white")
    return path


def styled(draw: Callable[P, Path]) -> Callable[P, Path]:
    """Decorator of a function that draws and writes a figure: it runs with the fonts and line widths of LOOK alone."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Path:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()  # a matplotlibrc in the working directory, perhaps someone else's, says nothing
            matplotlib.rcParams.update(LOOK)
            return draw(*args, **kwargs)

    return drawn


@styled
def scatter(
    path: Path,
    points: np.ndarray,
    names: tuple[str, str],
    column: Column | None = None,
    mask: np.ndarray | None = None,
    way: np.ndarray | None = None,
    title: str = "",
) -> Path:  # points (N, 2), mask (N,) bool, way (P, 2)
    """Scatter plot of all points, coloured by a column, with the selection ``mask`` on top and the path ``way``.

    Above DENSE_FROM points without a column, a histogram is drawn instead.
    """
    figure = new_figure(4.2 if column is not None else WIDTH_INCHES)
    chosen = mask if mask is not None and mask.any() else None
    axes = figure.subplots()
    good = np.isfinite(points).all(axis=1)
    if good.sum() > DENSE_FROM and column is None:
        image = axes.hist2d(points[good, 0], points[good, 1], bins=300, cmap="Blues", norm="log", rasterized=True)[3]
        figure.colorbar(image, ax=axes, label="particles", shrink=0.8)
    else:
        size = 6.0 if good.sum() < 3000 else 2.0 if good.sum() < 30_000 else 0.4
        look: dict[str, Any] = {"s": size, "linewidths": 0, "rasterized": bool(good.sum() > RASTER_FROM)}
        # what fades is drawn first
        parts = [(good, 1.0)] if chosen is None else [(good & ~chosen, FADED), (good & chosen, 1.0)]
        for part, alpha in parts:
            _points(axes, points, part, column, {**look, "alpha": alpha})
        if column is not None and column.classes:
            marks = [
                axes.scatter([], [], color=f"C{code % 10}", s=12, label=name)
                for code, name in enumerate(column.names[:MOST_CLASSES])
            ]
            axes.legend(handles=marks, fontsize=6, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        elif column is not None:
            figure.colorbar(axes.collections[-1], ax=axes, label=column.name, shrink=0.8)
    if chosen is not None and column is None:
        places = points[good & chosen]
        axes.scatter(
            places[:, 0],
            places[:, 1],
            s=3,
            color=COLOURS[1],
            linewidths=0,
            rasterized=bool(len(places) > RASTER_FROM),
            label=f"{int(chosen.sum()):,} selected",
        )
        axes.legend(fontsize=7, frameon=False, markerscale=2)
    if way is not None and len(way):
        axes.plot(*way.T, color="black", linewidth=1, marker="o", markersize=2)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    count = f"{int(good.sum()):,} particles" + (f", {int(chosen.sum()):,} selected" if chosen is not None else "")
    axes.set_title(title or count, fontsize=8)
    return save(figure, path)


def _points(axes: Axes, points: np.ndarray, part: np.ndarray, column: Column | None, look: dict[str, Any]) -> None:
    x, y = points[part].T
    if column is None:
        axes.scatter(x, y, color=COLOURS[0], **{**look, "alpha": 0.6 * look["alpha"]})
    elif column.classes:
        axes.scatter(x, y, c=column.values[part] % 10, cmap="tab10", vmin=-0.5, vmax=9.5, **look)
    else:
        low, high = np.nanpercentile(column.values, [1, 99])
        axes.scatter(x, y, c=column.values[part], cmap="viridis", vmin=low, vmax=high, **look)


@styled
def plane(
    path: Path,
    values: np.ndarray,
    extent: tuple[float, float, float, float],
    names: tuple[str, str],
    label: str,
    states: Sequence[tuple[float, float, str]] = (),
) -> Path:  # values (X, Y)
    """Image of a quantity over two axes, with named places ``states`` (x, y, name); ``extent``: left, right, bottom,
    top."""
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


@styled
def profile(
    path: Path, x: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray, names: tuple[str, str], note: str = ""
) -> Path:  # each (P,)
    """A curve ``y`` with its error band from ``low`` to ``high``."""
    figure = new_figure()
    axes = figure.subplots()
    axes.fill_between(x, low, high, color=COLOURS[0], alpha=0.25, linewidth=0)
    axes.plot(x, y, color=COLOURS[0], linewidth=1.2)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    if note:
        axes.set_title(note, fontsize=6, wrap=True)
    return save(figure, path)


@styled
def picture(path: Path, pixels: np.ndarray, angstrom_per_pixel: float | None = None, title: str = "") -> Path:
    """A view (H, W, 3 or 4) uint8 with a scale bar where the scale is known."""
    height, width = pixels.shape[:2]
    if path.suffix.lower() == ".png" and not angstrom_per_pixel and not title:
        from PIL import Image

        with replacing(path) as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG")
        return path
    figure = new_figure(4.0, 4.0 * height / width)
    axes = figure.subplots()
    axes.imshow(pixels, interpolation="none")
    axes.set_axis_off()
    if angstrom_per_pixel:
        _scale_bar(axes, pixels.shape, angstrom_per_pixel, "black")
    if title:
        axes.set_title(title, fontsize=8)
    return save(figure, path)


@styled
def planes(path: Path, images: Sequence[tuple[str, np.ndarray]], voxel_angstrom: float) -> Path:  # each (H, W)
    """Sections of one volume side by side, in one grey scale, with a scale bar."""
    figure = new_figure(2.2 * len(images), 2.5)
    low = min(float(image.min()) for _, image in images)
    high = max(float(image.max()) for _, image in images)
    for place, (axes, (name, image)) in enumerate(zip(figure.subplots(1, len(images), squeeze=False)[0], images)):
        axes.set_axis_off()
        axes.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="nearest")
        axes.set_title(name, fontsize=8)
        if not place:
            _scale_bar(axes, image.shape, voxel_angstrom, "white", up=True)
    return save(figure, path)


def _scale_bar(axes: Axes, shape: tuple[int, ...], angstrom_per_pixel: float, colour: str, *, up: bool = False) -> None:
    """A bar of a round length in the lower left corner; ``up``: rows count upwards."""
    height, width = shape[:2]
    length = _nice(0.3 * width * angstrom_per_pixel)
    start, end = 0.05 * width, 0.05 * width + length / angstrom_per_pixel
    foot, above = (0.05, 0.07) if up else (0.95, 0.93)
    axes.plot([start, end], [foot * height] * 2, color=colour, linewidth=2)
    axes.text((start + end) / 2, above * height, f"{length:g} Å", ha="center", va="bottom", fontsize=7, color=colour)


@styled
def montage(
    path: Path, images: np.ndarray, titles: Sequence[str] = (), columns: int = 8, pixel_angstrom: float = 0.0
) -> Path:  # (n, D, D)
    """Particle images in rows, each in its own grey scale; a scale bar in the first where the pixel size is known."""
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
            if not place and pixel_angstrom:
                _scale_bar(axes, images[0].shape, pixel_angstrom, "white")
    return save(figure, path)


def _nice(length: float) -> float:
    power = 10 ** np.floor(np.log10(length))
    return float(max(step * power for step in (1, 2, 5) if step * power <= length))


@styled
def bars(path: Path, counts: np.ndarray, names: tuple[str, str], unpopulated: np.ndarray | None = None) -> Path:
    """Bar chart of ``counts`` (P,) by frame; bars of ``unpopulated`` (P,) bool have another colour."""
    figure = new_figure(height=1.8)
    axes = figure.subplots()
    frames = np.arange(1, len(counts) + 1)
    colours = [COLOURS[0]] * len(counts) if unpopulated is None else np.where(unpopulated, COLOURS[1], COLOURS[0])
    axes.bar(frames, counts, color=colours, width=0.8)
    axes.set_xlim(0.4, len(counts) + 0.6)
    if unpopulated is not None and unpopulated.any():
        axes.bar([], [], color=COLOURS[1], label="hardly any particle near")
        axes.legend(fontsize=7, frameon=False)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    return save(figure, path)
