"""The picture of the demo's molecule in the first window, made from the points that the demo simulates.

``python tests/benchmarks/demo_picture.py resources/demo/spliceosome.png``
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

sys.path.insert(0, str(Path(__file__).parents[2]))

from gaussianem_gui.demo.molecule import PARTS, molecule

VOXEL_ANGSTROM, SMOOTH_ANGSTROM, SIDE, AMBIENT = 1.0, 6.0, 400, 0.35
COLOURS = {"": (122, 129, 240), "head": (64, 190, 150), "arm": (240, 170, 70)}
LIGHT = np.array([0.75, -0.5, -0.45])  # along the view (towards the eye), down, right


def main(path: Path) -> None:
    """Draw the surface as it is seen along z, the longest side upright, head and arm in their colours."""
    still = molecule()
    xyz = still["xyz"] - still["xyz"].mean(axis=0)
    places = np.rint(xyz[:, ::-1] / VOXEL_ANGSTROM).astype(int) + SIDE // 2  # z, y, x
    parts = [~(still["head"] | still["arm"]), *(still[name] for name in PARTS)]
    maps = []
    for part in parts:
        grid = np.zeros((SIDE // 2, SIDE, SIDE), np.float32)
        np.add.at(grid, tuple((places[part] - [SIDE // 4, 0, 0]).T), still["weight"][part])
        maps.append(gaussian_filter(grid, SMOOTH_ANGSTROM / VOXEL_ANGSTROM)[::-1])
    whole = sum(maps)
    solid = whole > 0.12 * whole.max()
    seen, depth = solid.any(axis=0), solid.argmax(axis=0)
    y, x = np.indices(seen.shape)
    slope = np.stack([part[depth, y, x] for part in np.gradient(whole)])
    lit = -np.einsum("iyx,i->yx", slope, -LIGHT / np.linalg.norm(LIGHT)) / np.maximum(
        np.linalg.norm(slope, axis=0), 1e-9
    )
    bright = AMBIENT + (1 - AMBIENT) * np.clip(lit, 0, 1)
    owner = np.argmax([part[depth, y, x] for part in maps], axis=0)
    colours = np.array([COLOURS[""], *(COLOURS[name] for name in PARTS)])[owner] * bright[..., None]
    picture = Image.fromarray(np.dstack([np.minimum(colours, 255), 255 * seen]).astype(np.uint8)[::-1])
    picture = picture.crop(picture.getbbox())
    picture.resize([side * 2 // 3 for side in picture.size], Image.Resampling.LANCZOS).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
