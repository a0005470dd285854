"""Analyze: network and latents -> components, classes, volumes, trajectories, figures and diagnostics.

Layout of the output: ``kmeans/`` (a volume at the particle nearest each centre, classes as STAR), ``pc1/ pc2/ ...``
(volumes along each component, z.txt, play.cxc), ``plots/``, ``summary.json``, ``report.md``, ``report.html`` (all of it
in one file for a browser), ``analysis.npz`` (latents, scores, classes, UMAP, one row a particle) and
``particles.star`` (the input's rows with class and latents).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from gaussianem_core.analysis import html_report, latent_paths, latent_space, report, report_figures
from gaussianem_core.analysis.diagnostics import isolation, isolation_limit, stretch_counts
from gaussianem_core.analysis.embedding import EMBEDDED, Embedding, umap_available
from gaussianem_core.commands.volume_series import SERIES, contour_level, write_series
from gaussianem_core.errors import InputError
from gaussianem_core.io.chimerax import write_trajectory_script, write_volumes_script
from gaussianem_core.io.image_rows import load_particles, rows_of_particles
from gaussianem_core.io.latents import load_latents
from gaussianem_core.io.particle_rows import write_star_rows
from gaussianem_core.io.particle_table import column_names, copy_optimisation_set, write_chosen_particles, write_star
from gaussianem_core.io.star import find_particle_table, scan_star
from gaussianem_core.job.events import JobLog, refuse_existing
from gaussianem_core.job.input_paths import optional_input, resolve_input
from gaussianem_core.model.trained_model import TrainedModel, check_latents, load_model_of
from gaussianem_core.options import AnalyzeOptions
from gaussianem_core.runtime.device import choose_device, memory_errors
from gaussianem_core.runtime.files import atomic_write, check_free_space, remove_replaced, write_atomically, write_json

RESULTS = (
    "plots/*.png",
    "outliers.txt",
    "outliers.star",
    "without_outliers.star",
    "kmeans/classes.star",
    *(f"pc[0-9]*/{name}" for name in (*SERIES, "play.cxc")),
)
"""What not every analysis writes."""

BETTER = 0.7
"""A curved path replaces the straight one when its most isolated point is this much less isolated."""


def run(options: AnalyzeOptions, log: JobLog) -> None:
    """Analyse the latents and write the files listed above into the job directory.

    Raises InputError for latents that do not fit the model, more classes than particles, or results that are there
    already (without ``overwrite``); ResourceError for too little disk or GPU memory.
    """
    out = log.directory
    device = choose_device(options.device, threads=options.threads)
    model = load_model_of(options, optional_input(options, "mask"), device, log)
    arrays = load_latents(resolve_input(options, "latent"))
    z = check_latents(arrays["z_mu"], model, "latent")
    active = latent_space.active_dimensions(arrays)
    if not active.any():
        log.message(report.NOTHING, "warning")
        options = options.model_copy(update={"nclass": 1, "components": 0, "no_umap": True})
    if len(z) < max(2, options.nclass):
        raise InputError(
            "option nclass", f"must not exceed the {len(z)} particles", options.nclass, "Give fewer classes."
        )
    star, particle = particle_star(options, len(z)), load_particles(resolve_input(options, "cfg").parent)
    refuse_existing(out, ["summary.json", "kmeans", "pc1"], options.overwrite)
    box = options.box or model.configuration.box
    components = latent_space.principal_components(z)
    n_components = min(options.components, components.used)
    volumes = options.nclass + n_components * options.trajectory_points
    check_free_space(out, volumes * (4 * box**3 + 48 * len(model.gaussians)) + 100 * len(z))

    remove_replaced(out, *RESULTS)
    umap = umap_of(z, options, log)
    log.plan(
        {
            "class volumes": options.nclass,
            **{f"trajectory pc{i + 1}": options.trajectory_points for i in range(n_components)},
            "half sets": options.nclass,
            **({"UMAP": 0.001 * min(len(z), EMBEDDED)} if umap else {}),
        }
    )
    with umap or contextlib.nullcontext():
        level = contour_level(model.consensus_volume(box))
        scores = components.scores(z)
        classes, centres = latent_space.k_means(z, options.nclass, options.seed)
        nearest = latent_space.nearest_particles(z, centres)
        summary: dict[str, Any] = {
            "particles": len(z),
            "seed": options.seed,
            "gaussians": len(model.gaussians),
            "zdim": model.zdim,
            "box": box,
            "pixel_size_angstrom": model.pixel_size(box),
            "contour_level": level,
            "active_dimensions": int(active.sum()),
            "variance_share": components.ratios.tolist(),
        }
        with memory_errors("Use a smaller --box"):
            summary["classes"] = write_classes(model, z, classes, nearest, box, level, star, particle, out, log)
            limit = isolation_limit(z) if n_components else 0.0
            summary["trajectories"] = [
                write_trajectory(model, z, components, i, limit, options, box, level, log) for i in range(n_components)
            ]
            trust = report.assess(model, z, arrays, classes, options, star, log)
        summary["trust"] = trust.figures
        if star is not None:
            write_labelled(star, out / "particles.star", z, scores[:, :3], classes, particle)
            log.artifact("particles", "particles.star", "particles with class and latents", particles=len(z))
        write_plots(log, components, scores, classes, nearest, summary, trust)
        plane, rows = write_umap(umap, classes, log)
    with atomic_write(out / "analysis.npz") as file:
        np.savez_compressed(
            file,
            z_mu=z,
            scores=scores.astype(np.float32),
            labels=classes.astype(np.int32) + 1,
            umap=plane,
            umap_rows=rows,
            centres=centres.astype(np.float32),
            class_particles=nearest,
        )
    write_json(out / "summary.json", summary)
    write_atomically(out / "report.md", report.report(summary, trust))
    log.artifact("summary", "summary.json", "figures of the analysis")
    log.artifact("report", html_report.write_html_report(out), "the analysis in one page, for any browser")
    log.message(
        f"{len(z):,} particles, {options.nclass} classes, {n_components} trajectories; contour level {level:.4g}"
    )
    for sentence in trust.sentences:
        log.message(sentence)


def particle_star(options: AnalyzeOptions, count: int) -> Path | None:
    """The STAR file whose rows are the particles: as given, else the one beside cfg.json if it fits.

    Raises InputError if the file given has another number of rows.
    """
    given = optional_input(options, "star_file")
    path = given or resolve_input(options, "cfg").with_name("particles.star")
    if not path.exists():
        return None
    rows = find_particle_table(scan_star(path)).n_rows
    particle = load_particles(resolve_input(options, "cfg").parent)
    if rows == count or (particle is not None and rows == len(particle) and count == particle.max() + 1):
        return path
    if given is None:
        return None
    raise InputError(
        "star_file",
        f"must have the {count} particles of the latents",
        f"{rows} rows",
        "Use the particles.star of the preprocess job that was trained on.",
    )


def umap_of(z: np.ndarray, options: AnalyzeOptions, log: JobLog) -> Embedding | None:
    """UMAP of the latents ``z`` (N, zdim), to be entered; None with ``no_umap``, below 10 particles, or where
    umap-learn is not installed."""
    if options.no_umap or len(z) < 10:
        return None
    if not umap_available():
        log.message("UMAP is not installed (pip install umap-learn): its plot is left out.")
        return None
    umap = Embedding(z, options.seed)
    if len(umap.rows) < len(z):
        log.message(f"UMAP shows {len(umap.rows):,} of {len(z):,} particles.")
    return umap


def write_umap(umap: Embedding | None, classes: np.ndarray, log: JobLog) -> tuple[np.ndarray, np.ndarray]:
    """Wait for UMAP and write plots/umap.png by the ``classes`` (N,), from 0. Returns the plane (n, 2) and the rows
    (n,) of the particles that it shows; both are empty where there is none."""
    if umap is not None:
        log.progress("UMAP", 0, 1, "maps")
        plane = umap.plane(log)
        log.progress("UMAP", 1, 1, "maps")
        if len(plane):
            report_figures.umap(plane, classes[umap.rows], log.directory / "plots" / "umap.png")
            log.artifact("plot", "plots/umap.png", "UMAP of the latents")
            return plane, umap.rows
    return np.zeros((0, 2), np.float32), np.zeros(0, np.int64)


def write_classes(
    model: TrainedModel,
    z: np.ndarray,
    classes: np.ndarray,
    nearest: np.ndarray,
    box: int,
    level: float,
    star: Path | None,
    particle: np.ndarray | None,
    out: Path,
    log: JobLog,
) -> list[dict[str, Any]]:
    """Write kmeans/: volume and Gaussians of each class (from 1), a script, and each class's particles as STAR.

    Parameters
    ----------
    z : (N, zdim) latents. classes : (N,) class of each particle, from 0.
    nearest : (K,) row of the particle nearest to each class's centre, whose volume is written.
    box : voxels a side. level : contour level of the script.
    star, particle : the particle file, and (rows,) the particle of each of its rows (None: each row is a particle).

    Returns
    -------
    An entry of summary.json for each class.
    """
    directory = out / "kmeans"
    written = write_series(model, z[nearest], directory, box, log, "class volumes")
    names = [volume.name for volume, _ in written]
    write_volumes_script(directory / "view.cxc", names, level, "Classes")
    log.artifact("script", directory / "view.cxc", "ChimeraX: class volumes side by side")
    counts = np.bincount(classes, minlength=len(nearest))
    entries = []
    for i, (volume, gaussians) in enumerate(written):
        entry: dict[str, Any] = {
            "class": i + 1,
            "particles": int(counts[i]),
            "share": float(counts[i] / len(z)),
            "shown_particle": int(nearest[i]),
            "z": z[nearest[i]].tolist(),
            "volume": f"kmeans/{volume.name}",
            "gaussians": f"kmeans/{gaussians.name}",
        }
        log.artifact("volume", volume, f"class {i + 1} ({counts[i]:,} particles)", level=level)
        if star is not None and counts[i]:
            target = directory / f"class_{volume.stem[4:]}.star"
            write_chosen_particles(star, target, classes == i, particle)
            entry["particles_star"] = f"kmeans/{target.name}"
        entries.append(entry)
    if star is None:
        columns = {"gaussianemParticle": np.arange(len(z)), "gaussianemClass": classes + 1}
        write_star(directory / "classes.star", {"particles": columns})
        log.artifact("particles", directory / "classes.star", "class of each particle (counted from 0)")
    return entries


def write_trajectory(
    model: TrainedModel,
    z: np.ndarray,
    components: latent_space.Components,
    number: int,
    limit: float,
    options: AnalyzeOptions,
    box: int,
    level: float,
    log: JobLog,
) -> dict[str, Any]:
    """Write pcN/: volumes along one component. The path is the straight line through the mean, unless the particles
    lie on a curve (see BETTER).

    Parameters
    ----------
    z : (N, zdim) latents. number : of the component, from 0.
    limit : distance to the 20th nearest particle beyond which a place counts as unpopulated
        (see ``diagnostics.isolation_limit``).
    box : voxels a side. level : contour level of the script.

    Returns
    -------
    The entry of summary.json.
    """
    span = number, options.trajectory_low, options.trajectory_high, options.trajectory_points
    path, kind = latent_paths.component_line(z, components, *span), "line"
    isolated = isolation(z, path, limit=limit)
    curved = latent_paths.populated_path(z, components, *span)
    of_curve = isolation(z, curved, limit=limit)
    if of_curve.max() < BETTER * isolated.max():
        path, kind, isolated = curved, "populated", of_curve
    name = f"pc{number + 1}"
    directory = log.directory / name
    written = write_series(model, path, directory, box, log, f"trajectory {name}")
    write_trajectory_script(
        directory / "play.cxc", [volume.name for volume, _ in written], level, f"Component {number + 1}"
    )
    empty = [i + 1 for i in np.flatnonzero(isolated > 1)]
    share = float(components.ratios[number])
    log.artifact("volume_series", directory, f"component {number + 1}", count=len(path), level=level, z=f"{name}/z.txt")
    log.artifact("trajectory", directory / "z.txt", f"latents along component {number + 1}", points=len(path))
    log.artifact("script", directory / "play.cxc", f"ChimeraX: component {number + 1} as a movie")
    return {
        "component": number + 1,
        "directory": name,
        "variance_share": share,
        "path": kind,
        "points": len(path),
        "percentiles": [options.trajectory_low, options.trajectory_high],
        "particles_per_point": stretch_counts(z, path).tolist(),
        "unpopulated_points": [int(i) for i in empty],
        **changes(model, path),
    }


def changes(model: TrainedModel, path: np.ndarray) -> dict[str, float]:
    """Change between the ends of a path (P, zdim): displacement of the Gaussians (Angstrom, 99th percentile), and the
    share of density that appears or disappears (0 to 1)."""
    ends = model.deform(path[[0, -1]])
    moved = (ends.positions[1] - ends.positions[0]).norm(dim=-1).quantile(0.99)
    exchanged = (ends.densities[1] - ends.densities[0]).abs().sum() / ends.densities.amax(dim=0).sum()
    return {
        "largest_displacement_angstrom": float(moved)
        * model.configuration.box
        / 2
        * model.configuration.pixel_size_angstrom,
        "density_exchanged": float(exchanged),
    }


def write_labelled(
    star: Path, target: Path, z: np.ndarray, scores: np.ndarray, classes: np.ndarray, particle: np.ndarray | None = None
) -> None:
    """Copy a STAR file with class (also as rlnClassNumber where there is none), components and latents of each row.

    Columns of an earlier analysis are replaced.

    Parameters
    ----------
    z : (P, zdim) latents. scores : (P, k) along the first components. classes : (P,) from 0; written from 1.
    particle : (N,) particle of each row, where a particle has several rows; None: each row is a particle.

    Raises
    ------
    InputError : the file has another number of rows.
    """
    rows = find_particle_table(scan_star(star)).n_rows
    z, scores, classes = (rows_of_particles(values, particle, rows, star) for values in (z, scores, classes))
    columns: dict[str, Any] = {"gaussianemClass": classes + 1}
    columns |= {f"gaussianemComponent{i + 1}": np.round(scores[:, i], 6) for i in range(scores.shape[1])}
    columns |= {f"gaussianemLatent{i + 1}": np.round(z[:, i].astype(np.float64), 6) for i in range(z.shape[1])}
    if "rlnClassNumber" not in column_names(star):
        columns["rlnClassNumber"] = classes + 1
    write_star_rows(star, target, None, columns, renew=True)
    copy_optimisation_set(star, target)


def write_plots(
    log: JobLog,
    components: latent_space.Components,
    scores: np.ndarray,
    classes: np.ndarray,
    nearest: np.ndarray,
    summary: dict[str, Any],
    trust: report.Trust,
) -> None:
    """Write the figures as plots/*.png and report them as artifacts.

    ``scores`` (N, k), ``classes`` (N,) from 0, ``nearest`` (K,) as for :func:`write_classes`.
    """
    folder = log.directory / "plots"
    report_figures.components(scores, components.ratios, nearest, folder / "components.png")
    report_figures.classes(scores, components.ratios, classes, nearest, folder / "classes.png")
    made = {"components.png": "particles along the components", "classes.png": "classes in the latent space"}
    if summary["trajectories"]:
        paths = [np.loadtxt(log.directory / t["directory"] / "z.txt", ndmin=2) for t in summary["trajectories"]]
        report_figures.trajectories(scores, components, paths, summary["trajectories"], folder / "trajectories.png")
        made["trajectories.png"] = "trajectories and the particles along them"
    volumes = [log.directory / entry["volume"] for entry in summary["classes"]]
    report_figures.class_volumes(volumes, summary["classes"], folder / "class_volumes.png")
    made["class_volumes.png"] = "class volumes in projection, and what differs from their mean"
    if trust.dependences or trust.fit is not None:
        report_figures.trust(trust, folder / "trust.png")
        made["trust.png"] = "what the latents follow, and outliers"
    for name, label in made.items():
        log.artifact("plot", f"plots/{name}", label)
