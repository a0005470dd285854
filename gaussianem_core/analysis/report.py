"""Diagnostics of an analysis, from the files beside the latents, and its report in words."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gaussianem_core.analysis import diagnostics, latent_space
from gaussianem_core.imaging.ctf import load_ctf
from gaussianem_core.imaging.pose import load_poses
from gaussianem_core.io.image_rows import first_rows, load_images, load_particles
from gaussianem_core.io.latents import load_latents
from gaussianem_core.io.particle_table import write_chosen_particles
from gaussianem_core.job.events import JobLog
from gaussianem_core.job.input_paths import resolve_input
from gaussianem_core.model.trained_model import TrainedModel, check_latents, load_model
from gaussianem_core.options import AnalyzeOptions
from gaussianem_core.runtime.files import atomic_write

FIT_ARRAYS = {
    "signal_fit": "Signal found less signal expected (standard deviations)",
    "log_likelihood_gain": "Log-likelihood of the image over noise alone (nats)",
    "log_likelihood": "Log-likelihood of the image (nats)",
}
"""Arrays of the latents file that measure how well each image fits, the best one first, with the figure's labels."""

NOTHING = (
    "Nothing stands above the noise: no latent dimension tells the particles apart, they are as alike as these images "
    "can show. One volume is written for all of them, no classes and no trajectories."
)

SMALL_REGION = 10
"""Least number of particles of each half set in a class in which the halves are compared."""


@dataclass
class Trust:
    """Results of the diagnostics: figures for summary.json, sentences for report.md, arrays for plots.

    fit : (N,) figure of each image's fit, named ``fit_label``; flagged : (N,) bool, outliers. None where unknown.
    """

    dependences: list[diagnostics.Dependence] = field(default_factory=list)
    halves: list[diagnostics.HalfAgreement] = field(default_factory=list)
    fit: np.ndarray | None = None
    fit_label: str = ""
    flagged: np.ndarray | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)


def assess(
    model: TrainedModel,
    z: np.ndarray,
    arrays: dict[str, np.ndarray],
    classes: np.ndarray,
    options: AnalyzeOptions,
    star: Path | None,
    log: JobLog,
) -> Trust:
    """Test dependences on pose, defocus and shift, outliers, and agreement of half sets, each where its files exist.

    Parameters
    ----------
    z : (N, zdim) latents. arrays : of the latents file. classes : (N,) class of each particle, from 0.
    star : STAR file of the particles, for copies of it with and without the outliers, or None.
    log : its directory gets the files of outliers.

    Raises
    ------
    InputError : a file beside the latents is damaged.
    """
    found = Trust()
    if latent_space.active_dimensions(arrays).any():
        _dependences(found, z, options)
    else:
        found.sentences.append(NOTHING)
    expanded = load_images(resolve_input(options, "cfg").parent) is not None
    particle = load_particles(resolve_input(options, "cfg").parent)
    what = "particles" if particle is not None else "rows (several an image)" if expanded else "images"
    _outliers(found, arrays, len(z), what, star, particle, log)
    _halves(found, model, classes, options, log)
    return found


def _dependences(found: Trust, z: np.ndarray, options: AnalyzeOptions) -> None:
    folder = resolve_input(options, "cfg").parent
    features: dict[str, np.ndarray] = {}
    particle = load_particles(folder)
    first = slice(None) if particle is None else first_rows(particle)  # of tilt series, the first image of each
    if (folder / "poses.npy").exists():
        rotations, shifts = load_poses(folder / "poses.npy")
        rotations, shifts = rotations[first], shifts[first]
        if len(rotations) == len(z):
            features["viewing direction"] = diagnostics.view_features(rotations)
            features["in-plane rotation"] = diagnostics.in_plane_features(rotations)
            features["particle offset"] = diagnostics.shift_features(shifts)
    if (folder / "ctf.npy").exists():
        parameters = load_ctf(folder / "ctf.npy")[first]
        if len(parameters) == len(z):
            features["defocus"] = diagnostics.defocus_features(parameters)
    if not features:
        found.sentences.append(
            "Whether the latents follow pose or defocus was not checked: no poses.npy and ctf.npy beside cfg.json."
        )
    image = load_images(folder) if features else None
    image = None if image is None else image[first]
    rows = np.arange(len(z)) if image is None else one_row_an_image(image, options.seed)
    for what, values in features.items():
        entry = diagnostics.dependence(z[rows], values[rows], what, options.seed)
        found.dependences.append(entry)
        found.sentences.append(entry.sentence)
    found.figures["dependence"] = {
        d.what: {"explained": d.explained, "chance": d.chance, "p_value": d.p_value, "level": d.level}
        for d in found.dependences
    }


def one_row_an_image(image: np.ndarray, seed: int) -> np.ndarray:  # (N,) -> (M,)
    """Numbers of one random row of each image, ascending: mates of a symmetry expansion are not independent."""
    order = np.random.default_rng(seed).permutation(len(image))
    return np.sort(order[first_rows(image[order])])


def _outliers(
    found: Trust,
    arrays: dict[str, np.ndarray],
    count: int,
    noun: str,
    star: Path | None,
    particle: np.ndarray | None,
    log: JobLog,
) -> None:
    name = next((name for name in FIT_ARRAYS if name in arrays), None)
    if name is None or arrays[name].reshape(-1).shape != (count,) or not np.isfinite(arrays[name]).all():
        return
    found.fit, found.fit_label = arrays[name].reshape(-1).astype(np.float64), FIT_ARRAYS[name]
    found.flagged, how = diagnostics.outliers(found.fit, 4.0 if name == "signal_fit" else diagnostics.OUTLIER_SIGMA)
    flagged = int(found.flagged.sum())
    found.figures["outliers"] = {"flagged": flagged, "share": flagged / count, "rule": how}
    if not flagged:
        found.sentences.append("No image fits the model much worse than the others.")
        return
    rows = np.flatnonzero(found.flagged)
    with atomic_write(log.directory / "outliers.txt") as file:
        np.savetxt(file, rows, fmt="%d")
    found.sentences.append(
        f"{flagged} of {count} {noun} ({100 * flagged / count:.1f} %) fit the model far worse than the others ({how}): "
        "junk, ice, or another molecule. Look at them before removing them."
    )
    if star is not None:
        write_chosen_particles(star, log.directory / "outliers.star", found.flagged, particle)
        log.artifact("particles", "outliers.star", "images that fit badly", particles=flagged)
        if flagged < count:
            write_chosen_particles(star, log.directory / "without_outliers.star", ~found.flagged, particle)
            log.artifact(
                "particles", "without_outliers.star", "particles without the outliers", particles=count - flagged
            )


def half_models(weights: Path) -> tuple[Path, Path] | None:
    """Paths of the half sets' trained networks, in half1/ and half2/ beside the full one ``weights``, or None.

    A network counts if its latents lie beside it. It is the one with the full one's name, or that of the last epoch:
    fewer images may take more epochs.
    """
    found = []
    for folder in (weights.parent / "half1", weights.parent / "half2"):
        finished = {path.name.replace(".output.pkl", ".pkl") for path in folder.glob("weights.*.output.pkl")}
        finished = {name for name in finished if re.fullmatch(r"weights\.\d+\.pkl", name) and (folder / name).exists()}
        if not finished:
            return None
        last = max(finished, key=lambda name: int(name.split(".")[1]))
        found.append(folder / (weights.name if weights.name in finished else last))
    return found[0], found[1]


def _halves(found: Trust, model: TrainedModel, classes: np.ndarray, options: AnalyzeOptions, log: JobLog) -> None:
    weights = resolve_input(options, "model_weight")
    pair = half_models(weights)
    if pair is None:
        return
    cfg, ply = resolve_input(options, "cfg"), weights.parent / "point_cloud.ply"
    means, everything = [], []
    halves = []
    for path in pair:
        half = load_model(cfg, path, ply if ply.exists() else None, None, model.device, model.backend)
        stored = load_latents(path.with_name(path.name.replace(".pkl", ".output.pkl")))
        halves.append((half, check_latents(stored["z_mu"], half, "latent"), stored["ind"].reshape(-1).astype(int)))
    regions = [
        region
        for region in range(classes.max() + 1)
        if all((classes[rows] == region).sum() >= SMALL_REGION for _, _, rows in halves)
    ]
    if not regions:
        return
    for half, z, rows in halves:
        centres = np.stack([z[classes[rows] == region].mean(axis=0) for region in regions])
        volumes = list(half.volumes(np.concatenate([z.mean(axis=0, keepdims=True), centres])))
        means.append(volumes[0])
        everything.append(volumes[1:])
    for i, region in enumerate(regions):
        found.halves.append(
            diagnostics.half_agreement(
                region, everything[0][i], everything[1][i], means[0], means[1], model.configuration.pixel_size_angstrom
            )
        )
        log.progress("half sets", i + 1, len(regions), "classes")
    found.figures["half_sets"] = [
        {
            "class": h.region + 1,
            "fsc": h.fsc.tolist(),
            "resolution_angstrom": h.resolution_angstrom,
            "difference_correlation": h.difference_correlation,
        }
        for h in found.halves
    ]
    agreeing = sum(h.difference_correlation > 0.5 for h in found.halves)
    found.sentences.append(
        f"Two halves of the data, trained independently, show the same change of the molecule in {agreeing} of "
        f"{len(found.halves)} classes (correlation of the difference maps above 0.5). Believe these classes first."
    )


def report(summary: dict[str, Any], found: Trust) -> str:
    """Text of report.md: the analysis in words, from the content of summary.json and the diagnostics."""
    lines = [
        "# Analysis",
        "",
        f"{summary['particles']:,} particles, {summary['gaussians']:,} Gaussians, {summary['zdim']} latent dimensions. "
        f"Volumes: box {summary['box']}, {summary['pixel_size_angstrom']:.4g} Å/px, contour level "
        f"{summary['contour_level']:.4g} for all.",
        "",
        *([NOTHING, ""] if not summary["active_dimensions"] else []),
        "## Classes" if summary["active_dimensions"] else "## All particles",
        "",
        "| class | particles | share | volume |",
        "|---|---|---|---|",
        *[
            f"| {c['class']} | {c['particles']:,} | {100 * c['share']:.1f} % | {c['volume']} |"
            for c in summary["classes"]
        ],
        "",
    ]
    if summary["active_dimensions"]:
        lines += [
            "Each volume is decoded at the particle nearest the middle of its class; classes are ordered along the "
            "first component. k-means makes as many classes as it is asked for: that they exist does not prove "
            "separate states, and a continuous motion is cut into pieces.",
            "",
            "## Trajectories",
            "",
        ]
    for t in summary["trajectories"]:
        kind = "a straight line through the mean" if t["path"] == "line" else "a curve through the populated region"
        text = (
            f"- **Component {t['component']}** ({100 * t['variance_share']:.1f} % of the variance, "
            f"`{t['directory']}/`): {t['points']} volumes on {kind}, "
            f"from the {t['percentiles'][0]:g}th to the {t['percentiles'][1]:g}th "
            f"percentile. Parts move by up to {t['largest_displacement_angstrom']:.1f} Å; "
            f"{100 * t['density_exchanged']:.0f} % of the density comes or goes."
        )
        if t["unpopulated_points"]:
            where = ", ".join(map(str, t["unpopulated_points"]))
            text += f" **Hardly any particle is near volume {where}: those are the network's guess, not data.**"
        lines.append(text)
    lines += ["", "## Can it be trusted?", "", *[f"- {sentence}" for sentence in found.sentences]]
    if not found.halves:
        lines.append("- Halves of the data were not compared: train with --half_sets to tell signal from noise.")
    return "\n".join(lines) + "\n"
