"""The plot of a reconstruction: FSC, Guinier, local resolution and slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from gaussianem_core.analysis.figures import figure
from gaussianem_core.io.chimerax import COLOURS
from gaussianem_core.reconstruction.fsc import THRESHOLD
from gaussianem_core.reconstruction.map_results import MapResult

CURVES = {
    "unmasked": "Without mask",
    "masked": "Masked",
    "corrected": "Masked, corrected",
    "randomised": "Random phases, masked",
}


def plot_result(result: MapResult, path: Path) -> None:
    """Write the plot of a result as PNG."""
    with figure(path, columns=2, rows=2) as axes:
        _fsc(axes[0], result)
        _guinier(axes[1], result)
        _local(axes[2], result)
        _slice(axes[3], result)


def _fsc(ax: Axes, result: MapResult) -> None:
    found = result.agreement
    frequency = np.arange(found.box // 2) / (found.box * found.pixel_size_angstrom)
    for i, (name, label) in enumerate(CURVES.items()):
        style = ":" if name == "randomised" else "-"
        ax.plot(frequency[1:], getattr(found, name).cpu().numpy()[1:], style, color=COLOURS[i], label=label)
    ax.axhline(THRESHOLD, color="0.7", linewidth=0.6, zorder=0)
    title = f"FSC 0.143 at {result.resolution_angstrom:.2f} Å"
    if result.at_nyquist:
        title = f"Above 0.143 up to Nyquist, {2 * found.pixel_size_angstrom:.2f} Å"
    ax.set(xlabel="Spatial frequency (1/Å)", ylabel="FSC of the half maps", ylim=(-0.1, 1.05), title=title)
    ax.legend(loc="lower left")


def _guinier(ax: Axes, result: MapResult) -> None:
    plot = result.guinier
    ax.plot(plot.squared_frequency, plot.log_amplitude, ".", color=COLOURS[0], markersize=3)
    if plot.bfactor_angstrom2 is not None:
        line = plot.intercept + plot.bfactor_angstrom2 / 4 * plot.squared_frequency
        ax.plot(plot.squared_frequency, line, color=COLOURS[1], label=f"B = {plot.bfactor_angstrom2:.0f} Å²")
        ax.legend()
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.set(xlabel="1/d² (1/Å²)", ylabel="ln of mean amplitude, FSC-weighted", title="Guinier plot")


def _local(ax: Axes, result: MapResult) -> None:
    if result.local is None:
        ax.set_axis_off()
        return
    inside = result.local.resolution_angstrom[result.mask > 0.5].cpu().numpy()
    ax.hist(inside, bins=40, color=COLOURS[0])
    title = f"Window of {result.local.window_angstrom:.0f} Å"
    ax.set(xlabel="Local resolution within the mask (Å)", ylabel="Voxels", title=title)


def _slice(ax: Axes, result: MapResult) -> None:
    middle = result.agreement.box // 2
    values = result.sharpened[middle].cpu().numpy()
    limit = float(np.abs(values).max()) or 1.0
    ax.imshow(values, cmap="gray", origin="lower", vmin=-0.3 * limit, vmax=limit)
    ax.contour(result.mask[middle].cpu().numpy(), levels=[0.5], colors=COLOURS[1], linewidths=0.8)
    ax.set_axis_off()
    ax.set_title("Central slice, with the mask's outline")
