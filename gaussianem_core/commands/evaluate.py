"""Evaluate: decoded volumes, latents and corrected poses against known truth.

The scores are defined in `simulation`: `volume_scores`, `latent_scores` and `pose_scores`. Scores whose truth the
file does not hold are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gaussianem_core.analysis import figures as plots
from gaussianem_core.errors import InputError
from gaussianem_core.imaging.fourier import fourier_crop
from gaussianem_core.io.latents import load_latents
from gaussianem_core.io.mrc import read_map
from gaussianem_core.io.particle_table import ParticleTable, read_particles
from gaussianem_core.job.events import EVENTS, JobLog, read_events, refuse_existing
from gaussianem_core.job.input_paths import optional_input, resolve_input
from gaussianem_core.model.trained_model import TrainedModel, check_latents, load_model_of
from gaussianem_core.options import EvaluateOptions
from gaussianem_core.runtime.device import choose_device, memory_errors
from gaussianem_core.runtime.files import null_for_nan, write_json
from gaussianem_core.simulation.ground_truth import Truth, load_truth
from gaussianem_core.simulation.latent_scores import junk_figures, latent_figures
from gaussianem_core.simulation.pose_scores import pose_figures
from gaussianem_core.simulation.volume_scores import shells_below, volume_figures

TABLE_SHELLS = 11
"""Shells of the printed table; the file has them all."""


def run(options: EvaluateOptions, log: JobLog) -> None:
    """Write evaluate.json and plots; print small tables.

    Raises InputError for latents, truth, masks or maps that do not fit the model or each other.
    """
    device = choose_device(options.device, threads=options.threads)
    model = load_model_of(options, None, device, log)
    latents_path, truth_path = resolve_input(options, "latent"), resolve_input(options, "truth")
    latents = load_latents(latents_path)
    z = check_latents(latents["z_mu"], model, "latent")
    truth = load_truth(truth_path)
    check_truth(truth, len(z))
    given_mask = read_mask(options, model)
    consensus_map = read_consensus_map(options, truth_path, truth, model)
    images = len(z) if truth.rotations is None else len(truth.rotations)
    corrected = read_corrected(options, latents_path, images)
    refuse_existing(log.directory, ["evaluate.json"], options.overwrite)
    generator = np.random.default_rng(options.seed)
    result: dict[str, Any] = {"particles": len(z), "gaussians": len(model.gaussians), "box": model.configuration.box}
    result.update(latent_figures(z, truth, generator, options.seed))
    result["junk_roc"] = junk_figures(latents, truth)
    result["poses"] = pose_figures(truth, corrected)
    result["seconds"] = job_seconds(Path(options.source_dir), latents_path.parent)
    if truth.has_volumes:
        real = np.flatnonzero(truth.real)
        rows = np.sort(generator.choice(real, min(options.volumes, len(real)), replace=False))
        with memory_errors("Use a model of a smaller box"):
            result["fsc"] = volume_figures(
                model,
                z,
                truth,
                rows,
                given_mask,
                consensus_map,
                lambda done: log.progress("FSC", done, len(rows), "volumes"),
            )
        plots.fsc_curves(result["fsc"], log.directory / "fsc.png")
        log.artifact("plot", "fsc.png", "FSC with the true volumes")
    figures, missing = null_for_nan(result)
    write_json(log.directory / "evaluate.json", figures)
    log.artifact("summary", "evaluate.json", "figures against the truth")
    log.metric("evaluate", 0, 0.0, **{name: value for name, value in headline(result).items() if np.isfinite(value)})
    if missing:
        log.message(f"no figure for {', '.join(missing)}: the data do not tell it (null in evaluate.json)", "warning")
    for line in table(result):
        log.message(line)


def read_mask(options: EvaluateOptions, model: TrainedModel) -> torch.Tensor | None:
    """The mask that the user gave (D, D, D), on the model's device; None without. Raises InputError for another box."""
    path = optional_input(options, "mask")
    if path is None:
        return None
    mask = torch.from_numpy(read_map(path).values).to(model.device)
    if mask.shape != (model.configuration.box,) * 3:
        raise InputError(
            "mask",
            f"must have the model's box {model.configuration.box}",
            tuple(mask.shape),
            "Resample the mask.",
        )
    return mask


def read_consensus_map(
    options: EvaluateOptions, truth_path: Path, truth: Truth, model: TrainedModel
) -> torch.Tensor | None:
    """The map of the refinement (D, D, D), in the model's box: as named, else consensus.mrc beside the truth, else
    None.

    Raises InputError for a box that is neither the simulation's nor the model's.
    """
    beside = truth_path.with_name("consensus.mrc")
    path = optional_input(options, "consensus_map") or (beside if beside.is_file() else None)
    if path is None:
        return None
    volume, box = torch.from_numpy(read_map(path).values), model.configuration.box
    if volume.shape not in ((box,) * 3, (truth.box,) * 3):
        raise InputError(
            "consensus_map",
            f"must have the box of the simulation or of the model, {truth.box or box} or {box}",
            tuple(volume.shape),
            "Give the map of the simulation.",
        )
    return fourier_crop(volume.to(model.device), box, dims=3)


def read_corrected(options: EvaluateOptions, latents_path: Path, count: int) -> ParticleTable | None:
    """The particles file whose poses are scored: as named, else particles.star beside the latents, else None.

    Raises InputError unless it has a row for each image.
    """
    beside = latents_path.with_name("particles.star")
    path = optional_input(options, "particles") or (beside if beside.is_file() else None)
    if path is None:
        return None
    table = read_particles(path, find_stacks=False)
    if len(table) != count:
        raise InputError(
            "particles", f"must have a row for each of the {count} images", len(table), "Give the whole file."
        )
    return table


def job_seconds(preprocess: Path, train: Path) -> dict[str, float]:
    """Seconds that the last finished preprocess and train job took, by name; a job without a record is left out."""
    found = {}
    for name, directory in (("preprocess", preprocess), ("train", train)):
        if (directory / EVENTS).is_file():
            ends = [e for e in read_events(directory / EVENTS)[0] if e["type"] == "end" and "seconds" in e]
            if ends:
                found[name] = float(ends[-1]["seconds"])
    return found


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


def headline(result: dict[str, Any]) -> dict[str, float]:
    """The main figures of evaluate.json, by the names under which events.jsonl reports them."""
    names = ("latent_error", "occupancy_roc", "occupancy_accuracy", "label_accuracy")
    figures = {name: float(result[name]) for name in names if name in result}
    figures |= {f"motion_r2_{name}": value for name, value in result.get("motion_r2", {}).items()}
    figures |= {f"junk_roc_{name}": value for name, value in result["junk_roc"].items()}
    for when, errors in result["poses"].items():
        figures[f"rotation_deg_{when}"], figures[f"shift_px_{when}"] = errors["rotation_deg"], errors["shift_px"]
    for name, entry in result.get("fsc", {}).items():
        if isinstance(entry, dict):
            figures[f"fsc_area_{name}"] = entry["area"]
    return figures


LABELS = {
    "model": "decoded volumes",
    "gaussians": "their Gaussians alone",
    "consensus": "consensus Gaussians",
    "consensus_map": "consensus map",
    "mean_map": "mean of the true maps",
}


def table(result: dict[str, Any]) -> list[str]:
    """The tables that are printed, as lines."""
    lines = volume_table(result["fsc"]) if "fsc" in result else []
    if "latent_error" in result:
        lines.append(f"latent error (0 perfect, 1 nothing learned)    {result['latent_error']:8.4f}")
    for name, value in result.get("motion_r2", {}).items():
        lines.append(f"{f'{name}, R2 from the nearest latents':<47}{value:8.4f}")
    if "occupancy_roc" in result:
        lines.append(f"occupancy, area under the ROC                  {result['occupancy_roc']:8.4f}")
    for name in ("occupancy", "label"):
        if f"{name}_accuracy" in result:
            chance = result[f"{name}_chance"]
            lines.append(f"{name} accuracy, held out (chance {chance:.3f})    {result[f'{name}_accuracy']:8.4f}")
    for name, value in result["junk_roc"].items():
        lines.append(f"{f'junk, area under the ROC of {name}':<47}{value:8.4f}")
    lines += pose_table(result["poses"])
    if result["seconds"]:
        lines.append("seconds: " + ", ".join(f"{name} {value:,.0f}" for name, value in result["seconds"].items()))
    return lines


def volume_table(fsc: dict[str, Any]) -> list[str]:
    """FSC areas, the masked FSC by shell, and whether the decoded volumes are anywhere worse than the map."""
    lines = [f"FSC area over {len(fsc['rows'])} particles (limit {fsc['limit']:.3f})   unmasked   masked"]
    known = {name: label for name, label in LABELS.items() if name in fsc}
    for name, label in known.items():
        lines.append(f"  {label:<44} {fsc[name]['area']:8.4f} {fsc[f'{name}_masked']['area']:8.4f}")
    shells = fsc["shells_angstrom"]
    chosen = np.unique(np.linspace(1, len(shells) - 1, min(TABLE_SHELLS, len(shells) - 1)).round().astype(int))
    lines.append(f"{'masked FSC by shell, in A':<46}" + "".join(f"{shells[i]:6.1f}" for i in chosen))
    for name, label in known.items():
        curve = fsc[f"{name}_masked"]["curve"]
        lines.append(f"  {label:<44}" + "".join(f"{curve[i]:6.2f}" for i in chosen))
    if "consensus_map" in fsc:
        worse = shells_below(fsc, "model_masked", "consensus_map_masked")
        where = f"in {len(worse)} shells, from {max(worse):.1f} to {min(worse):.1f} A" if worse else "in no shell"
        lines.append(f"decoded volumes are worse than the consensus map {where} (masked, by more than 0.01)")
    return lines


def pose_table(poses: dict[str, dict[str, float]]) -> list[str]:
    """Lines with the rms errors of poses before and after correction (degrees, px, A)."""
    lines = []
    titles = {"before": "errors in the particles file, rms", "after": "errors in the corrected particles file, rms"}
    for when, errors in poses.items():
        words = f"{errors['rotation_deg']:.3f} degrees, {errors['shift_px']:.3f} px"
        if "defocus_angstrom" in errors:
            words += f", defocus {errors['defocus_angstrom']:.0f} A"
        lines.append(f"{titles[when]}: {words}")
    return lines
