"""The files behind a job that the explorer shows: model, latents, images, original particles. No Qt."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaussianem_core.errors import InputError
from gaussianem_core.io.image_rows import IMAGES, PARTICLES, load_images, load_particles
from gaussianem_core.io.particle_table import row_count
from gaussianem_core.io.result_group import particle_files
from gaussianem_core.runtime.readers import read_json_object
from gaussianem_gui.project.import_latents import LATENTS, ORIGIN
from gaussianem_gui.project.inputs import in_project
from gaussianem_gui.project.project import Project

EXPLORABLE = ("train", "analyze", "decode")
"""Types of jobs that have a model and latents; an Import job may have latents of another program."""
STAR = "particles.star"
_WEIGHTS = re.compile(r"weights\.(\d+)\.pkl")


@dataclass(frozen=True)
class Sources:
    """Absolute paths of a job's files; None where there is no such file.

    Attributes
    ----------
    weights, cfg : the network; None for latents of another program, which cannot be decoded here.
    original : particle file that Preprocess was given (.star or .cs, that of a .csg), whose rows are the latents'; of
        particles that Preprocess expanded by their symmetry, its own copy with a row for each mate.
    unexpanded : what Preprocess was given in that case, a row an image; ``passthrough`` belongs to it.
    particles : particles.npy, the particle of each row, where particles have several images (tilt series); latents then
        have a row a particle.
    images : images.npy, the image in the stack that each row shows, where several rows show one.
    analysis : directory with analysis.npz and summary.json of the newest Analyze job of these latents.
    """

    job: str
    title: str
    directory: Path
    root: Path
    latents: Path
    weights: Path | None = None
    cfg: Path | None = None
    gaussians: Path | None = None
    mask: Path | None = None
    original: Path | None = None
    unexpanded: Path | None = None
    images: Path | None = None
    particles: Path | None = None
    passthrough: tuple[Path, ...] = ()
    stack: Path | None = None
    poses: Path | None = None
    ctf: Path | None = None
    analysis: Path | None = None
    train_job: str = ""
    preprocess_job: str = ""
    preprocess_options: dict[str, Any] = field(default_factory=dict)
    program: str = ""

    def model(self) -> tuple[Path, Path]:
        """Weights and configuration. Raises InputError where there is no network."""
        if self.weights is None or self.cfg is None:
            rule = "must have a network here to decode with"
            remedy = "Reconstruct makes a map of the particles around a point, without a network."
            raise InputError("job", rule, f"latents of {self.program}", remedy)
        return self.weights, self.cfg


def explorable(project: Project, name: str, job_type: str) -> bool:
    """Whether a job is of a type that has latents; an Import job has them if they were given to it."""
    return job_type in EXPLORABLE or (job_type == "import" and (project.root / name / LATENTS).is_file())


def find_sources(project: Project, name: str) -> Sources:
    """The files of a job. Raises InputError if it has no model and latents (yet)."""
    job = project.job(name)
    if not explorable(project, name, job.job_type):
        raise InputError("job", "must have a model or latents", name, "Explore a Train job, or import latents.")
    if job.job_type == "import":
        return _imported(project, name)
    values = job.values()
    train = name
    if job.job_type == "train":
        weights, latents = newest_weights(job.directory)
    else:
        weights = _there(project.root, values, "model_weight") or Path()
        given = _there(project.root, values, "latent")
        latents = given or weights.with_name(weights.name.replace(".pkl", ".output.pkl"))
        train = _maker(project, weights)
    if not weights.is_file() or not latents.is_file():
        raise InputError("job", "must have written a model and latents", name, "Wait until an epoch of it is done.")
    cfg = _there(project.root, values, "cfg")
    if cfg is None:
        raise InputError("job", "must have its cfg.json", values.get("cfg", "nothing"), "Restore the Preprocess job.")
    gaussians = _there(project.root, values, "gaussians" if "gaussians" in values else "point")
    train_values = project.job(train).values() if train else values
    beside = cfg.parent
    stack = _there(project.root, train_values, "particle_name", ".mrcs")
    poses = _there(project.root, train_values, "pose") or beside / "poses.npy"
    ctf = _there(project.root, train_values, "ctf") or beside / "ctf.npy"
    preprocess = _maker(project, cfg)
    original, passthrough, options = _original(project, preprocess, beside)
    unexpanded, shown = None, load_images(beside)
    if shown is not None and original and (beside / STAR).is_file() and row_count(original) != len(shown):
        original, unexpanded = beside / STAR, original
    several = load_particles(beside) is not None
    if several and (beside / STAR).is_file():
        original, passthrough = beside / STAR, ()  # with a row a particle, or an image, as Preprocess read them
    return Sources(
        job=job.name,
        title=f"{job.type_label and project.info(job).title} {job.name.rstrip('/').rsplit('/', 1)[-1]}",
        directory=job.directory,
        root=project.root,
        weights=weights,
        latents=latents,
        cfg=cfg,
        gaussians=gaussians,
        mask=_there(project.root, train_values, "mask"),
        original=original,
        unexpanded=unexpanded,
        images=None if shown is None else beside / IMAGES,
        particles=beside / PARTICLES if several else None,
        passthrough=passthrough,
        analysis=_analysis(project, job.name, train),
        train_job=train,
        preprocess_job=preprocess,
        preprocess_options=options,
        stack=stack,
        poses=poses if poses.is_file() else None,
        ctf=ctf if ctf.is_file() else None,
    )


def _imported(project: Project, name: str) -> Sources:
    """The files of an Import job that holds latents of another program."""
    job = project.job(name)
    folder = job.directory
    origin = read_json_object(folder / ORIGIN, "job", "Import the latents again.")
    there = {path.name: path for path in (folder / n for n in ("particles.star", "particles.cs")) if path.is_file()}
    given = origin.get("passthrough")
    extras = [Path(path) for path in (given if isinstance(given, list) else []) if isinstance(path, str)]
    poses, ctf = (folder / "poses.npy", folder / "ctf.npy")
    program = str(origin.get("program") or "another program")
    return Sources(
        job=job.name,
        title=f"{program} {job.name.rstrip('/').rsplit('/', 1)[-1]}",
        directory=folder,
        root=project.root,
        latents=folder / LATENTS,
        original=next(iter(there.values()), None),
        passthrough=tuple(path for path in extras if path.is_file()),
        poses=poses if poses.is_file() else None,
        ctf=ctf if ctf.is_file() else None,
        preprocess_options=job.values(),
        program=program,
    )


def newest_weights(directory: Path) -> tuple[Path, Path]:
    """weights.N.pkl with the largest N that has latents beside it, and these; ``Path()`` twice if there is none.

    Raises OSError if the directory cannot be read.
    """
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            match = _WEIGHTS.fullmatch(entry.name)
            if match and (directory / f"weights.{match[1]}.output.pkl").is_file():
                found.append(int(match[1]))
    if not found:
        return Path(), Path()
    return directory / f"weights.{max(found)}.pkl", directory / f"weights.{max(found)}.output.pkl"


def _there(root: Path, values: dict[str, Any], option: str, ending: str = "") -> Path | None:
    """The file that an option names, looked for as the engine does."""
    value = str(values.get(option) or "")
    if not value:
        return None
    for place in (root / in_project(values, value), root / value):
        for candidate in (place, place.with_name(place.name + ending)):
            if candidate.is_file():
                return candidate
    return None


def _maker(project: Project, path: Path) -> str:
    """The job in whose directory a file lies, "" if in none."""
    try:
        parts = path.resolve().relative_to(project.root.resolve()).parts
    except ValueError:
        return ""
    name = "/".join(parts[:2]) + "/" if len(parts) > 2 else ""
    return name if name in project.graph().processes else ""


def _original(project: Project, preprocess: str, beside: Path) -> tuple[Path | None, tuple[Path, ...], dict[str, Any]]:
    values: dict[str, Any] = {}
    if preprocess:
        values = project.job(preprocess).values()
        star = _there(project.root, values, "star_file")
        more = [project.root / in_project(values, str(p)) for p in values.get("passthrough") or ()]
        if star is not None:
            star, others = particle_files(star, [p for p in more if p.is_file()])
            return star, others, values
    copy = beside / STAR  # the rows as they were, where the original has gone
    return (copy if copy.is_file() else None), (), values


def _analysis(project: Project, job: str, train: str) -> Path | None:
    """Directory of this analysis, else of the newest one of the same training."""
    names = [job, *sorted(project.children(train), reverse=True)] if train else [job]
    for name in names:
        directory = project.root / name
        if (directory / "analysis.npz").is_file():
            return directory
    return None
