"""Writing a series of decoded volumes and the level at which they are best shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gaussianem_core.io.latents import write_latent_rows
from gaussianem_core.io.mrc import write_map
from gaussianem_core.job.events import JobLog
from gaussianem_core.model.gaussians import write_gaussians
from gaussianem_core.model.trained_model import TrainedModel
from gaussianem_core.runtime.files import remove_replaced

SERIES = ("vol_*.mrc", "gaussians_*.ply", "z.txt")
"""Names of the files of a series."""


def contour_level(volume: torch.Tensor, share: float = 0.8) -> float:
    """The level above which ``share`` of the positive density of a volume (D, D, D) lies; 0 where none is positive."""
    values = volume[volume > 0].flatten().sort(descending=True).values
    if not len(values):
        return 0.0
    total = values.double().cumsum(0)
    return float(values[int(torch.searchsorted(total, share * total[-1]))])


def write_series(
    model: TrainedModel,
    z: np.ndarray,
    directory: Path,
    box: int | None,
    log: JobLog,
    stage: str,
) -> list[tuple[Path, Path]]:
    """Write vol_NNN.mrc and gaussians_NNN.ply, from 001, for each row of ``z`` (B, zdim), and the rows as z.txt.

    Files of an earlier series in ``directory`` are removed first. ``box``: voxels a side, None for the model's;
    ``stage``: name under which progress is reported. Returns the paths (map, Gaussians) of each row.
    """
    directory.mkdir(parents=True, exist_ok=True)
    remove_replaced(directory, *SERIES, "class_*.star")
    box = box or model.configuration.box
    digits = max(3, len(str(len(z))))
    written = []
    for rows, deformed in model.chunks(z):
        for i, positions, densities, change in zip(
            range(rows.start + 1, rows.stop + 1), deformed.positions, deformed.densities, deformed.density_change
        ):
            paths = directory / f"vol_{i:0{digits}d}.mrc", directory / f"gaussians_{i:0{digits}d}.ply"
            volume = model.volume(positions, densities, box).cpu().numpy()
            write_map(paths[0], volume, model.pixel_size(box), model.origin(box))
            moved = replace(model.gaussians, positions=positions, raw_density=model.gaussians.raw_density + change)
            write_gaussians(moved, paths[1])
            written.append(paths)
            log.progress(stage, i, len(z), "volumes")
    write_latent_rows(z, directory / "z.txt")
    return written
