"""What follows from half maps: mask, FSC, sharpened map and local resolution, and their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaussianem_core.analysis.local_resolution import LocalResolution, local_resolution
from gaussianem_core.io.mrc import write_map
from gaussianem_core.reconstruction.fsc import HalfMapAgreement, compare_half_maps, first_below, resolution
from gaussianem_core.reconstruction.half_volumes import HalfVolumes
from gaussianem_core.reconstruction.sharpening import LARGEST_BFACTOR, Guinier, guinier, sharpen
from gaussianem_core.reconstruction.solvent_mask import automatic_mask

HALF_MAPS = ("half_map_1.mrc", "half_map_2.mrc")
WHOLE, SHARPENED, LOCAL, LOCAL_RESOLUTION, MASK = (
    "map_unsharpened.mrc",
    "map.mrc",
    "map_local.mrc",
    "local_resolution.mrc",
    "mask.mrc",
)
LOCAL_PERCENTILES = (10, 50, 90)


@dataclass(frozen=True)
class MapResult:
    """A reconstruction and what is known of it.

    Attributes
    ----------
    halves : half maps and whole map, not filtered.
    mask : (D, D, D) from 0 to 1; ``mask_made`` if it was made from the map.
    agreement : FSC of the half maps.
    guinier : the plot, and the B-factor that follows from it.
    bfactor_angstrom2 : what the map was sharpened by, as given, from the plot, or 0.
    sharpened : (D, D, D). local : local resolution, of the sharpened map; None where it was not asked for.
    """

    halves: HalfVolumes
    mask: Tensor
    mask_made: bool
    agreement: HalfMapAgreement
    guinier: Guinier
    bfactor_angstrom2: float
    sharpened: Tensor
    local: LocalResolution | None

    @property
    def resolution_angstrom(self) -> float:
        """Resolution (A) at which the corrected FSC falls below 0.143."""
        return self.agreement.resolution(self.agreement.corrected)

    @property
    def at_nyquist(self) -> bool:
        """Whether the corrected FSC never falls below 0.143: a finer pixel size may show more."""
        curve = self.agreement.corrected
        return first_below(curve, 0.143) == len(curve)


def map_result(
    halves: HalfVolumes,
    pixel_size_angstrom: float,
    mask: Tensor | None,
    bfactor_angstrom2: float | None,
    with_local: bool,
    seed: int,
) -> MapResult:
    """Mask, FSC, sharpened map and, on request, local resolution of half maps.

    Parameters
    ----------
    mask : (D, D, D) from 0 to 1, or None to make one (`solvent_mask.automatic_mask`).
    bfactor_angstrom2 : negative to sharpen; None takes it from Guinier's plot, or 0 where that tells none.
    with_local : compute the local resolution.
    seed : of the random phases.

    Raises
    ------
    InputError : a mask is to be made and the map shows no molecule.
    """
    box = halves.first.shape[-1]
    made = mask is None
    if mask is None:
        coarse = resolution(halves.fsc, box, pixel_size_angstrom)
        mask = torch.from_numpy(automatic_mask(halves.whole, pixel_size_angstrom, coarse)).to(halves.first)
    agreement = compare_half_maps(halves.first, halves.second, mask, pixel_size_angstrom, seed)
    plot = guinier(halves.whole * mask, agreement.corrected, pixel_size_angstrom)
    bfactor = plot.bfactor_angstrom2 if bfactor_angstrom2 is None else bfactor_angstrom2
    bfactor = float(np.clip(0.0 if bfactor is None else bfactor, -LARGEST_BFACTOR, LARGEST_BFACTOR))
    sharpened = sharpen(halves.whole, agreement.corrected, bfactor, pixel_size_angstrom)
    local = None
    if with_local:
        unweighted = sharpen(halves.whole, torch.ones_like(agreement.corrected), bfactor, pixel_size_angstrom)
        reached = agreement.resolution(agreement.corrected)
        local = local_resolution(halves.first, halves.second, unweighted, pixel_size_angstrom, reached)
    return MapResult(halves, mask, made, agreement, plot, bfactor, sharpened, local)


def write_maps(result: MapResult, directory: Path, origin_angstrom: tuple[float, float, float]) -> list[Path]:
    """Write the maps of a result as MRC files with the origin x, y, z; returns their paths. Raises as `write_map`."""
    maps = dict(zip(HALF_MAPS, (result.halves.first, result.halves.second)))
    maps |= {WHOLE: result.halves.whole, SHARPENED: result.sharpened, MASK: result.mask}
    if result.local is not None:
        maps |= {LOCAL: result.local.filtered, LOCAL_RESOLUTION: result.local.resolution_angstrom}
    for name, values in maps.items():
        write_map(directory / name, values.cpu().numpy(), result.agreement.pixel_size_angstrom, origin_angstrom)
    return [directory / name for name in maps]


def figures(result: MapResult) -> dict[str, Any]:
    """The numbers of a result, for results.json."""
    found = result.agreement
    curves = ("unmasked", "masked", "randomised", "corrected")
    entry: dict[str, Any] = {
        "box": found.box,
        "pixel_size_angstrom": found.pixel_size_angstrom,
        "resolution_angstrom": result.resolution_angstrom,
        "resolution_unmasked_angstrom": found.resolution(found.unmasked),
        "resolution_masked_angstrom": found.resolution(found.masked),
        "at_nyquist": result.at_nyquist,
        "randomised_from_angstrom": found.box * found.pixel_size_angstrom / found.randomised_from,
        "bfactor_angstrom2": result.bfactor_angstrom2,
        "bfactor_guinier_angstrom2": result.guinier.bfactor_angstrom2,
        "mask_made": result.mask_made,
        "mask_share": float(result.mask.mean()),
        "fsc": {
            "frequency_per_angstrom": [i / (found.box * found.pixel_size_angstrom) for i in range(found.box // 2)],
            **{name: [round(float(v), 6) for v in getattr(found, name)] for name in curves},
        },
    }
    if result.local is not None:
        inside = result.local.resolution_angstrom[result.mask > 0.5].cpu().numpy()
        levels = np.percentile(inside, LOCAL_PERCENTILES)
        entry["local_resolution_angstrom"] = {
            f"percentile_{p}": float(v) for p, v in zip(LOCAL_PERCENTILES, levels)
        } | {"window_angstrom": result.local.window_angstrom}
    return entry


def in_words(result: MapResult) -> str:
    """A sentence with resolution, B-factor and local resolution."""
    found = result.agreement
    words = f"{result.resolution_angstrom:.2f} A where the half maps' FSC falls to 0.143 (masked, corrected"
    words += f"; without mask {found.resolution(found.unmasked):.2f} A)"
    if result.at_nyquist:
        words = (
            f"the half maps' FSC is above 0.143 up to Nyquist, {2 * found.pixel_size_angstrom:.2f} A (masked, "
            f"corrected; without mask {found.resolution(found.unmasked):.2f} A): a finer pixel size may show more"
        )
    if result.guinier.bfactor_angstrom2 is None and result.bfactor_angstrom2 == 0:
        words += "; not sharpened, for the map does not reach beyond 10 A far enough to tell a B-factor"
    else:
        words += f"; sharpened by a B-factor of {result.bfactor_angstrom2:.0f} A^2"
    if result.local is not None:
        low, middle, high = (
            float(v)
            for v in np.percentile(result.local.resolution_angstrom[result.mask > 0.5].cpu().numpy(), LOCAL_PERCENTILES)
        )
        words += f"; local resolution {low:.1f} to {high:.1f} A (middle {middle:.1f})"
    return words
