"""The figures of an analysis, each written to a PNG file ``path``. N particles, k components, K classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from gaussianem_core.analysis.figures import annotate_classes, cloud, figure, label_component
from gaussianem_core.analysis.latent_space import Components
from gaussianem_core.analysis.report import Trust
from gaussianem_core.io.chimerax import COLOURS
from gaussianem_core.io.mrc import read_map

SHOWN_CLASSES = 24
SHOWN_POINTS = 20_000


def _plane(scores: np.ndarray) -> np.ndarray:  # (N, k) -> (N, 2)
    return scores[:, :2] if scores.shape[1] > 1 else np.concatenate([scores, np.zeros_like(scores)], axis=1)


def _axis_names(ratios: np.ndarray) -> dict[str, str]:
    second = label_component(1, ratios[1]) if len(ratios) > 1 else ""
    return {"xlabel": label_component(0, ratios[0]), "ylabel": second}


def components(scores: np.ndarray, ratios: np.ndarray, nearest: np.ndarray, path: Path) -> None:
    """Draw the particles on the first two components with the class centres, and the variance of each component.

    ``scores`` (N, k), ``ratios`` (k,) shares of the variance, ``nearest`` (K,) rows of the particles at the centres.
    """
    with figure(path, columns=2) as axes:
        plane = _plane(scores)
        cloud(axes[0], plane)
        annotate_classes(axes[0], plane[nearest], [str(i + 1) for i in range(len(nearest))])
        axes[0].set(**_axis_names(ratios), title=f"{len(scores):,} particles")
        axes[1].bar(np.arange(1, len(ratios) + 1), 100 * ratios, color=COLOURS[0])
        axes[1].set(xlabel="Component", ylabel="Share of the variance (%)", title="Variance of the latents")
        axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))


def classes(scores: np.ndarray, ratios: np.ndarray, labels: np.ndarray, nearest: np.ndarray, path: Path) -> None:
    """Draw the particles coloured by class, and the number in each class.

    ``labels`` (N,), from 0; the other arrays as for :func:`components`.
    """
    count = len(nearest)
    colours = _class_colours(count)
    with figure(path, columns=2) as axes:
        plane = _plane(scores)
        rows = _sample(len(plane))
        axes[0].scatter(plane[rows, 0], plane[rows, 1], s=2, c=colours[labels[rows]], linewidths=0, rasterized=True)
        annotate_classes(axes[0], plane[nearest], [str(i + 1) for i in range(count)])
        axes[0].set(**_axis_names(ratios))
        axes[1].bar(np.arange(1, count + 1), np.bincount(labels, minlength=count), color=colours)
        axes[1].set(xlabel="Class", ylabel="Particles")


def trajectories(
    scores: np.ndarray, fitted: Components, paths: Sequence[np.ndarray], entries: Sequence[dict[str, Any]], path: Path
) -> None:
    """Draw each trajectory over the particles, and the number of particles along it; unpopulated points in red.

    ``paths``: (P, zdim) points of each trajectory. ``entries``: theirs in summary.json.
    """
    with figure(path, columns=len(paths), rows=2, size=(3.4, 2.9)) as axes:
        for i, (points, entry) in enumerate(zip(paths, entries)):
            other = 1 if i == 0 else 0
            along = fitted.scores(points)
            upper, lower = axes[i], axes[len(paths) + i]
            if scores.shape[1] > 1:
                cloud(upper, scores[:, [i, other]])
                upper.plot(along[:, i], along[:, other], "-o", color="black", markersize=3, linewidth=1)
                upper.set(ylabel=label_component(other, fitted.ratios[other]))
            upper.set(xlabel=label_component(i, fitted.ratios[i]))
            numbers = np.arange(1, len(points) + 1)
            empty = np.isin(numbers, entry["unpopulated_points"])
            lower.bar(numbers, entry["particles_per_point"], color=np.where(empty, COLOURS[1], COLOURS[0]))
            lower.set(xlabel="Volume of the trajectory", ylabel="Nearest particles")
            if empty.any():
                lower.set_title("Red: hardly any particle there", color=COLOURS[1])


def class_volumes(volumes: Sequence[Path], entries: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the class volumes projected along z, and below their excess (blue) and deficit (red) against the mean.

    ``volumes``: MRC files. ``entries``: the classes in summary.json.
    """
    images = [read_map(volume).values.sum(axis=0) for volume in volumes]
    mean = np.average(images, axis=0, weights=[entry["share"] for entry in entries])
    bound = max(float(np.abs(np.stack(images) - mean).max()), 1e-12)
    shown = list(zip(images, entries))[:SHOWN_CLASSES]
    with figure(path, columns=len(shown), rows=2, size=(1.3, 1.45)) as axes:
        for i, (image, entry) in enumerate(shown):
            axes[i].imshow(image, cmap="gray", vmin=0, vmax=float(mean.max()), origin="lower")
            axes[i].set_title(f"{entry['class']}: {100 * entry['share']:.0f} %", fontsize=8)
            axes[len(shown) + i].imshow(image - mean, cmap="RdBu", vmin=-bound, vmax=bound, origin="lower")
        for ax in axes:
            ax.set(xticks=[], yticks=[])


def umap(plane: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """Draw the UMAP ``plane`` (N, 2) coloured by class, ``labels`` (N,)."""
    with figure(path) as axes:
        colours = _class_colours(int(labels.max()) + 1)
        rows = _sample(len(plane))
        axes[0].scatter(plane[rows, 0], plane[rows, 1], s=2, c=colours[labels[rows]], linewidths=0, rasterized=True)
        axes[0].set(xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[], title="Colours: classes")


def trust(found: Trust, path: Path) -> None:
    """Draw the dependences of the latents with their chance levels, and the histogram of the images' fit."""
    panels = bool(found.dependences) + (found.fit is not None)
    with figure(path, columns=panels) as axes:
        if found.dependences:
            names = [d.what.capitalize() for d in found.dependences]
            colours = {"fine": COLOURS[2], "look": COLOURS[3], "warning": COLOURS[1], "unknown": "0.8"}
            shares = [100 * d.explained for d in found.dependences]
            axes[0].barh(names, shares, color=[colours[d.level] for d in found.dependences])
            chance = [100 * d.chance for d in found.dependences]
            axes[0].plot(chance, range(len(chance)), "|", color="black", markersize=14, label="Chance")
            axes[0].set(xlabel="Share of the latents' variance that follows it (%)", xlim=(0, None))
            axes[0].legend()
        if found.fit is not None and found.flagged is not None:
            values = found.fit
            low, high = np.percentile(values, [0.1, 99.9])
            low = min(low, values[found.flagged].min()) if found.flagged.any() else low
            bins = np.linspace(low, high, 80).tolist()
            ax = axes[-1]
            ax.hist(values[~found.flagged], bins=bins, color=COLOURS[0], label="Kept")
            ax.hist(values[found.flagged], bins=bins, color=COLOURS[1], label=f"Flagged: {int(found.flagged.sum()):,}")
            ax.set(xlabel=found.fit_label, ylabel="Images", yscale="log")
            ax.legend()


def _class_colours(count: int) -> np.ndarray:  # (count, 4)
    """Colours in the order of the classes, which is that of the first component."""
    return matplotlib.colormaps["viridis"](np.linspace(0, 0.95, count))


def _sample(count: int) -> np.ndarray:
    return np.arange(0, count, max(1, -(-count // SHOWN_POINTS)))
