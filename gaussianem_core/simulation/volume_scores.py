"""FSC of decoded volumes with the true volume of their particle, and of maps that are the same for all particles.

FSC area is CryoBench's (per image; Jeon et al., NeurIPS 2024): the trapezoid under the FSC of each particle's decoded
volume with the true volume of its state, over shells i / D, i = 0 .. D/2 - 1, not normalised, at most (D/2 - 1) / D.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gaussianem_core.imaging.fourier import fourier_crop, fourier_shell_correlation, fsc_area
from gaussianem_core.model.detail import soft_mask
from gaussianem_core.model.trained_model import TrainedModel
from gaussianem_core.simulation.ground_truth import Truth, mean_volume, true_volumes


@torch.no_grad()
def volume_figures(
    model: TrainedModel,
    z: np.ndarray,
    truth: Truth,
    rows: np.ndarray,
    given_mask: torch.Tensor | None,
    consensus_map: torch.Tensor | None,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """FSC and its area of decoded volumes, their Gaussians alone, the consensus Gaussians, the consensus map that the
    refinement gave and the mean of the true maps, with and without mask.

    Volumes are made one by one: memory does not grow with their number.

    Parameters
    ----------
    z : (N, zdim) latents. rows : (n,) particles that are scored.
    given_mask : (D, D, D) in the model's box; None takes a soft mask of the mean map.
    consensus_map : (D, D, D) in the model's box, or None.
    progress : called with the number of particles done.

    Returns
    -------
    The entry ``fsc`` of evaluate.json: for each map ``areas`` (n,), mean ``curve`` (D/2,) and resolution (A).
    """
    box, device = model.configuration.box, model.device
    mean = fourier_crop(mean_volume(truth, device, model.backend), box, dims=3)
    mask = soft_mask(mean) if given_mask is None else given_mask
    detail, bare = model.detail_in(box), replace(model, detail=None)
    references = {"consensus": bare.consensus_volume(), "mean_map": mean}
    if consensus_map is not None:
        references["consensus_map"] = consensus_map.to(device)
    curves: dict[str, list[torch.Tensor]] = {}
    for number, (row, decoded) in enumerate(zip(rows, bare.volumes(z[rows])), start=1):
        true = true_volumes(truth, np.array([row]), box, device, model.backend)[0]
        whole = decoded if detail is None else decoded + detail
        for name, volume in {"model": whole, "gaussians": decoded, **references}.items():
            curves.setdefault(name, []).append(fourier_shell_correlation(volume, true).cpu())
            masked = fourier_shell_correlation(volume * mask, true * mask).cpu()
            curves.setdefault(f"{name}_masked", []).append(masked)
        progress(number)
    states = np.full(len(rows), np.nan)
    if truth.state is not None and truth.state.ndim == 1:  # of several motions there is no one state to plot by
        states = truth.state[rows].astype(float)
    pixel = model.configuration.pixel_size_angstrom
    result: dict[str, Any] = {
        "pixel_size_angstrom": pixel,
        "limit": (box // 2 - 1) / box,
        "shells_angstrom": [None, *(box * model.pixel_size(box) / np.arange(1, box // 2)).tolist()],
        "rows": rows.tolist(),
        "states": states.tolist(),
        "mask_share_of_box": float((mask > 0.5).float().mean()),
    }
    for name, several in curves.items():
        fsc = torch.stack(several)
        area = fsc_area(fsc, box)
        result[name] = {
            "area": float(area.mean()),
            "area_std": float(area.std(correction=0)),
            "areas": area.tolist(),
            "curve": fsc.mean(0).tolist(),
            "resolution_angstrom": resolution(fsc.mean(0), model.pixel_size(box)),
        }
    return result


def resolution(curve: torch.Tensor, pixel_size_angstrom: float, threshold: float = 0.5) -> float | None:
    """Resolution (A) at which a curve (D/2,) first falls below the threshold, linear between shells; None if never.

    0.5 is the threshold for the FSC with a known truth.
    """
    below = torch.nonzero(curve[1:] < threshold).flatten()
    if not len(below):
        return None
    i = int(below[0]) + 1
    share = float((curve[i - 1] - threshold) / (curve[i - 1] - curve[i]))
    return 2 * len(curve) * pixel_size_angstrom / (i - 1 + share) if i - 1 + share > 0 else None


def shells_below(fsc: dict[str, Any], name: str, other: str, margin: float = 0.01) -> list[float]:
    """Resolutions (A) of the shells in which the mean FSC of ``name`` is below that of ``other`` by the margin."""
    pairs = zip(fsc["shells_angstrom"], fsc[name]["curve"], fsc[other]["curve"])
    return [shell for shell, one, two in pairs if shell is not None and one < two - margin]
