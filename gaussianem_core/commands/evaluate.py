"""Evaluate: decoded volumes and latents against known truth.

FSC area is CryoBench's (per image; Jeon et al., NeurIPS 2024): the trapezoid under the FSC of each particle's decoded
volume with the true volume of its state, over shells i / D, i = 0 .. D/2 - 1, not normalised, at most (D/2 - 1) / D.
The latent error is the mean difference of state between a particle and its 100 nearest in the latent space, relative
to that of random pairs: 0 perfect, 1 nothing learned. Below 2,000 particles it asks a twentieth of them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gaussianem_core.analysis import figures as plots
from gaussianem_core.errors import InputError
from gaussianem_core.imaging.fourier import fourier_crop, fourier_shell_correlation, fsc_area
from gaussianem_core.io.latents import load_latents
from gaussianem_core.io.mrc import read_map
from gaussianem_core.job.events import JobLog, refuse_existing
from gaussianem_core.job.input_paths import optional_input, resolve_input
from gaussianem_core.model.detail import soft_mask
from gaussianem_core.model.trained_model import TrainedModel, check_latents, load_model_of
from gaussianem_core.options import EvaluateOptions
from gaussianem_core.runtime.device import choose_device, memory_errors
from gaussianem_core.runtime.files import write_atomically
from gaussianem_core.runtime.neighbours import neighbour_tree
from gaussianem_core.simulation.ground_truth import Truth, load_truth, mean_volume, true_volumes

NEIGHBOURS = 100
QUERIES = 5000
PAIRS = 1_000_000
PROBE_FOLDS = 5


def run(options: EvaluateOptions, log: JobLog) -> None:
    """Write evaluate.json and plots; print a small table."""
    device = choose_device(options.device)
    model = load_model_of(options, None, device, log)
    z = check_latents(load_latents(resolve_input(options, "latent"))["z_mu"], model, "latent")
    truth = load_truth(resolve_input(options, "truth"))
    check_truth(truth, len(z))
    given_mask = None
    if (path := optional_input(options, "mask")) is not None:
        given_mask = torch.from_numpy(read_map(path).values).to(device)
        if given_mask.shape != (model.configuration.box,) * 3:
            raise InputError(
                "mask",
                f"must have the model's box {model.configuration.box}",
                tuple(given_mask.shape),
                "Resample the mask.",
            )
    refuse_existing(log.directory, ["evaluate.json"], options.overwrite)
    generator = np.random.default_rng(options.seed)
    result: dict[str, Any] = {"particles": len(z), "gaussians": len(model.gaussians), "box": model.configuration.box}
    result.update(latent_figures(z, truth, generator, options.seed))
    if truth.has_volumes:
        rows = np.sort(generator.choice(np.flatnonzero(truth.real), min(options.volumes, truth.real.sum()), False))
        with memory_errors("Use a model of a smaller box"):
            result["fsc"] = volume_figures(model, z, truth, rows, given_mask, log)
        plots.fsc_curves(result["fsc"], log.directory / "fsc.png")
        log.artifact("plot", "fsc.png", "FSC with the true volumes")
    write_atomically(log.directory / "evaluate.json", json.dumps(result, indent=1) + "\n")
    log.artifact("summary", "evaluate.json", "figures against the truth")
    log.metric("evaluate", 0, 0.0, **headline(result))
    for line in table(result):
        log.message(line)


def check_truth(truth: Truth, count: int) -> None:
    """Raise InputError unless every array of the truth has a row for each of the ``count`` latents."""
    for name in ("label", "state", "frame", "present"):
        values = getattr(truth, name)
        if values is not None and (values.ndim < 1 or len(values) != count):
            raise InputError(
                "truth",
                f"must have one {name} for each of the {count} latents",
                values.shape,
                "Use the truth of the particles that the latents belong to.",
            )


def latent_figures(z: np.ndarray, truth: Truth, generator: np.random.Generator, seed: int) -> dict[str, Any]:
    """Latent error where states are known, probe accuracies where labels or composition are."""
    figures: dict[str, Any] = {}
    if truth.state is not None and truth.state.ndim == 1 and np.ptp(truth.state) > 0:
        figures["latent_error"] = latent_error(z, truth.state, truth.periodic, generator)
    if truth.present is not None and 0 < truth.present.mean() < 1:
        figures["occupancy_accuracy"] = probe_accuracy(z, truth.present.astype(int), seed)
        figures["occupancy_chance"] = float(max(truth.present.mean(), 1 - truth.present.mean()))
    same = (
        truth.present is not None
        and truth.label is not None
        and len(np.unique(truth.label)) == 2
        and (np.array_equal(truth.label > 0, ~truth.present) or np.array_equal(truth.label > 0, truth.present))
    )
    if truth.label is not None and len(np.unique(truth.label)) > 1 and not same:
        figures["label_accuracy"] = probe_accuracy(z, truth.label, seed)
        figures["label_chance"] = float(np.bincount(truth.label).max() / len(truth.label))
    return figures


def state_difference(a: np.ndarray, b: np.ndarray, periodic: bool) -> np.ndarray:
    """|a - b|, the shorter way round where state 1 is state 0 again."""
    difference = np.abs(a.astype(np.float64) - b)
    return np.minimum(difference, 1 - difference) if periodic else difference


def latent_error(
    z: np.ndarray, state: np.ndarray, periodic: bool, generator: np.random.Generator, neighbours: int = NEIGHBOURS
) -> float:  # (N, zdim), (N,)
    """Mean state difference over the nearest latents relative to random pairs; up to 5,000 particles asked."""
    count = min(neighbours, max(1, len(z) // 20))
    rows = generator.choice(len(z), min(QUERIES, len(z)), replace=False)
    nearest = np.asarray(neighbour_tree(z).query(z[rows], k=count + 1, workers=-1)[1])
    itself = nearest == rows[:, None]
    itself[~itself.any(axis=1), -1] = True  # among equal latents the particle itself may not be listed
    others = nearest[~itself]
    near = state_difference(state[others.reshape(len(rows), count)], state[rows][:, None], periodic).mean()
    first, second = generator.integers(0, len(z), (2, PAIRS))
    different = first != second
    random = state_difference(state[first[different]], state[second[different]], periodic).mean()
    return float(near / random)


def probe_accuracy(z: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Share of held-out particles whose label a linear classifier reads from the latent: five-fold, stratified."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    smallest = int(np.unique(labels, return_counts=True)[1].min())
    if smallest < 2:
        raise InputError("truth", "must have two particles of each label", smallest, "Simulate more particles.")
    folds = StratifiedKFold(min(PROBE_FOLDS, smallest), shuffle=True, random_state=seed)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(cross_val_score(probe, z, labels, cv=folds).mean())


@torch.no_grad()
def volume_figures(
    model: TrainedModel, z: np.ndarray, truth: Truth, rows: np.ndarray, given_mask: torch.Tensor | None, log: JobLog
) -> dict[str, Any]:
    """FSC and its area of decoded volumes, their Gaussians alone, the consensus Gaussians and the mean map, with and
    without mask.

    Volumes are made one by one: memory does not grow with their number.
    """
    box, device = model.configuration.box, model.device
    mean = fourier_crop(mean_volume(truth, device, model.backend), box, dims=3)
    mask = soft_mask(mean) if given_mask is None else given_mask
    detail, bare = model.detail_in(box), replace(model, detail=None)
    references = {"consensus": bare.consensus_volume(), "mean_map": mean}
    curves: dict[str, list[torch.Tensor]] = {}
    for number, (row, decoded) in enumerate(zip(rows, bare.volumes(z[rows])), start=1):
        true = true_volumes(truth, np.array([row]), box, device, model.backend)[0]
        whole = decoded if detail is None else decoded + detail
        for name, volume in {"model": whole, "gaussians": decoded, **references}.items():
            curves.setdefault(name, []).append(fourier_shell_correlation(volume, true).cpu())
            masked = fourier_shell_correlation(volume * mask, true * mask).cpu()
            curves.setdefault(f"{name}_masked", []).append(masked)
        log.progress("FSC", number, len(rows), "volumes")
    states = np.full(len(rows), np.nan) if truth.state is None else truth.state[rows].astype(float)
    result: dict[str, Any] = {
        "pixel_size_angstrom": model.configuration.pixel_size_angstrom,
        "limit": (box // 2 - 1) / box,
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
    """Where an FSC with a known truth first falls below 0.5, in Angstrom; None if it never does."""
    below = torch.nonzero(curve[1:] < threshold).flatten()
    if not len(below):
        return None
    i = int(below[0]) + 1
    share = float((curve[i - 1] - threshold) / (curve[i - 1] - curve[i]))
    return 2 * len(curve) * pixel_size_angstrom / (i - 1 + share) if i - 1 + share > 0 else None


def headline(result: dict[str, Any]) -> dict[str, float]:
    """The few numbers that sum it up."""
    names = ("latent_error", "occupancy_accuracy", "label_accuracy")
    figures = {name: float(result[name]) for name in names if name in result}
    for name, entry in result.get("fsc", {}).items():
        if isinstance(entry, dict):
            figures[f"fsc_area_{name}"] = entry["area"]
    return figures


def table(result: dict[str, Any]) -> list[str]:
    """The small table, as lines."""
    lines = []
    if "fsc" in result:
        fsc = result["fsc"]
        lines.append(f"FSC area over {len(fsc['rows'])} particles (limit {fsc['limit']:.3f})   unmasked   masked")
        labels = {
            "model": "decoded volumes",
            "gaussians": "their Gaussians alone",
            "consensus": "consensus Gaussians",
            "mean_map": "mean of the true maps",
        }
        for name, label in labels.items():
            lines.append(f"  {label:<44} {fsc[name]['area']:8.4f} {fsc[f'{name}_masked']['area']:8.4f}")
    if "latent_error" in result:
        lines.append(f"latent error (0 perfect, 1 nothing learned)    {result['latent_error']:8.4f}")
    for name in ("occupancy", "label"):
        if f"{name}_accuracy" in result:
            chance = result[f"{name}_chance"]
            lines.append(f"{name} accuracy, held out (chance {chance:.3f})    {result[f'{name}_accuracy']:8.4f}")
    return lines
