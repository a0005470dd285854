"""A folder with what EMDB asks for: map, two half maps, mask, FSC as XML, a picture, and a text on the methods."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from matplotlib.image import imsave
from scipy import ndimage

from gaussianem_core import __version__
from gaussianem_core.reconstruction.map_results import HALF_MAPS, MASK, SHARPENED, MapResult, in_words
from gaussianem_core.runtime.files import replacing, write_atomically

FOLDER = "deposition"
FSC_XML, PICTURE, TEXT = "fsc.xml", "picture.png", "how_it_was_made.txt"
PICTURE_PIXELS = 500
"""EMDB's size of an entry's picture."""
LIGHT = np.array([0.35, 0.35, -0.87])


def write_deposition(result: MapResult, entry: dict[str, Any], level: float, directory: Path) -> Path:
    """Write ``deposition`` beside the maps of ``directory``, which are linked or copied; returns it.

    Parameters
    ----------
    entry : the figures of results.json. level : contour level of the picture.
    """
    folder = directory / FOLDER
    folder.mkdir(exist_ok=True)
    for name in (SHARPENED, *HALF_MAPS, MASK):
        _link(directory / name, folder / name)
    write_atomically(folder / FSC_XML, fsc_xml(entry["fsc"]))
    image = surface_picture(result.sharpened.cpu().numpy() * result.mask.cpu().numpy(), level)
    with replacing(folder / PICTURE) as temporary:
        imsave(temporary, image, format="png", cmap="gray", vmin=0, vmax=1)
    write_atomically(folder / TEXT, text(result, entry, level))
    return folder


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where the disk has no such links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def fsc_xml(fsc: dict[str, list[float]]) -> bytes:
    """The corrected FSC in EMDB's XML: ``fsc`` with ``title``, ``xaxis`` and ``yaxis``, and for each shell a
    ``coordinate`` of ``x`` (1/A) and ``y``.

    ``fsc``: the curves of results.json, (D/2,) each, by name.
    """
    root = ElementTree.Element(
        "fsc",
        title="Half maps, masked, corrected by phase randomisation",
        xaxis="Resolution (A-1)",
        yaxis="Correlation Coefficient",
    )
    for frequency, value in zip(fsc["frequency_per_angstrom"], fsc["corrected"], strict=True):
        coordinate = ElementTree.SubElement(root, "coordinate")
        ElementTree.SubElement(coordinate, "x").text = f"{frequency:.6f}"
        ElementTree.SubElement(coordinate, "y").text = f"{1.0 if frequency == 0 else value:.6f}"
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True) + b"\n"


def surface_picture(values: np.ndarray, level: float) -> np.ndarray:  # (D, D, D) -> (500, 500) from 0 to 1
    """Picture of a map's surface [z, y, x] contoured at ``level``, seen along z, lit from the upper left, on white."""
    solid = values > level
    box = len(values)
    if not solid.any():
        return np.ones((PICTURE_PIXELS, PICTURE_PIXELS))
    rows, columns = np.flatnonzero(solid.any((0, 2))), np.flatnonzero(solid.any((0, 1)))
    half = 0.55 * max(float(np.ptp(rows)), float(np.ptp(columns)), 4.0)
    y, x = (np.linspace(-half, half, PICTURE_PIXELS) + 0.5 * (i[0] + i[-1]) for i in (rows[::-1], columns))
    grid_y, grid_x = np.meshgrid(y[::-1], x, indexing="ij")
    depth = np.full(grid_x.shape, np.inf)
    before = np.full(grid_x.shape, -np.inf)
    for z in np.arange(0, box - 1, 0.5):  # a ray for each pixel, from the viewer on
        here = ndimage.map_coordinates(values, [np.full(grid_x.shape, z), grid_y, grid_x], order=1)
        hit = (here > level) & np.isinf(depth)
        part = (level - before[hit]) / (here[hit] - before[hit])
        depth[hit] = z - 0.5 + 0.5 * np.where(np.isfinite(part), part, 1.0)
        before = here
    shown = np.isfinite(depth)
    gradient = [ndimage.gaussian_filter(values, 0.7, order=order) for order in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    place = [depth[shown], grid_y[shown], grid_x[shown]]
    normal = -np.stack([ndimage.map_coordinates(g, place, order=1) for g in gradient[::-1]])  # x, y, z
    normal /= np.maximum(np.linalg.norm(normal, axis=0), 1e-12)
    image = np.ones(grid_x.shape)
    image[shown] = 0.25 + 0.7 * np.clip(LIGHT * [-1, 1, 1] @ normal, 0, 1)
    return image


def text(result: MapResult, entry: dict[str, Any], level: float) -> str:
    """How the map was made, as text for the entry's form."""
    particles = entry["particles"]
    mask = "made from the map" if entry["mask_made"] else "given by the user"
    lines = [
        f"Reconstruction with GaussianEM {__version__}.",
        "",
        f"Particles: {particles['used']} ({particles['half_1']} and {particles['half_2']} in the two half sets).",
        f"Symmetry imposed: {entry['symmetry']}.",
        f"Map: {entry['box']} voxels a side, {entry['pixel_size_angstrom']:.5g} A a voxel.",
        f"Recommended contour level of {SHARPENED}: {level:.4g}.",
        "",
        "Method: back-projection of the particle images into Fourier space with the poses of the particle file, each "
        "weighted by its CTF. Components are divided by their summed squared CTF, as far as the FSC of the half maps "
        "goes, and by their shell's mean beyond.",
        f"Resolution: {in_words(result)}.",
        f"FSC ({FSC_XML}): half maps within {MASK} (a soft mask, {mask}), corrected by phase randomisation beyond "
        f"{entry['randomised_from_angstrom']:.1f} A.",
        "",
        f"{SHARPENED}: primary map, weighted by FSC, sharpened by a B-factor of {entry['bfactor_angstrom2']:.1f} A^2, "
        "cut at the resolution. Not masked.",
        f"{HALF_MAPS[0]}, {HALF_MAPS[1]}: half maps, neither masked nor filtered nor sharpened.",
        f"{MASK}: the mask of the FSC. {PICTURE}: the primary map at the recommended level.",
    ]
    return "\n".join(lines) + "\n"
