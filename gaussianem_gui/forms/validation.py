"""Is a form's content valid, and what would run? Field by field, before anything is written. No Qt here."""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gaussianem_core.job.command_line import without_blanks
from gaussianem_core.options import JobOptions, command_line, explain, hints

HIDDEN = ("job_dir", "output", "overwrite", "resume")  # the job system decides these
WHOLE = ""  # key of an error that concerns no single field
WORDS = {  # options whose name is not their own best description
    "ctf": "CTF",
    "gpu": "GPU",
    "gpus": "GPUs",
    "star": "STAR",
    "snr": "SNR",
    "lr": "Learning rate",
    "umap": "UMAP",
    "cs": "Spherical aberration",
    "apix": "Pixel size",
    "ply": "PLY",
    "cfg": "Configuration",
    "z": "Latents (z)",
    "map_thres": "Map threshold",
    "qdim": "Encoder width",
    "qlayers": "Encoder layers",
    "zdim": "Latent dimensions",
    "nclass": "Number of classes",
    "batch": "Batch size",
    "epoch": "Epochs",
    "point": "Consensus Gaussians",
    "pose": "Poses",
    "latent": "Latents",
    "model_weight": "Trained network",
    "particle_name": "Particle stack",
    "star_file": "Particles",
    "source_dir": "Data directory",
    "data_dir": "Stack directory",
    "consensus_map": "Consensus map",
    "no_umap": "Skip UMAP",
    "no_ctf": "No CTF",
    "lr_latent": "Learning rate of the latents",
    "beta": "KL weight",
    "no_invert": "Protein is dark",
    "gaussians": "Consensus Gaussians",
    "downsample_size": "Box after downsampling",
}


def field_label(name: str) -> str:
    """An option's name as a person would write it."""
    if name in WORDS:
        return WORDS[name]
    words = [WORDS[w] if w in ("ctf", "gpu", "gpus", "star", "snr", "umap") else w for w in name.split("_")]
    text = " ".join(words)
    return text[:1].upper() + text[1:]


def field_errors(model: type[JobOptions], values: dict[str, Any]) -> dict[str, str]:
    """By field, what is wrong with a value that breaks a rule of ``model`` (WHOLE: a rule of no single field); {} if
    nothing."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        found: dict[str, str] = {}
        for problem in error.errors():
            name = str(problem["loc"][0]) if problem["loc"] else _named_in(model, problem["msg"])
            message = _plain(model, name, problem["msg"])
            found.setdefault(name, _words(problem["type"], message, problem.get("ctx") or {}))
        return found
    return {}


def _named_in(model: type[JobOptions], message: str) -> str:
    words = message.replace(",", " ").replace("(", " ").replace("/", " ").split()
    return next((word for word in words if word in model.model_fields), WHOLE)


def _plain(model: type[JobOptions], field: str, message: str) -> str:
    """A rule as it is said beside ``field``: without the field's own name and value, options as people call them."""
    text = message.removeprefix("Value error, ").removeprefix("Input ").removeprefix(f"{field} ").partition(" (got ")[0]

    def name(word: re.Match[str]) -> str:
        label = field_label(word[0])
        return label[:1].lower() + label[1:] if word[0] in model.model_fields else word[0]

    return re.sub(r"\w+", name, text)


def _words(kind: str, message: str, context: dict[str, Any]) -> str:
    if kind == "missing":
        return "Needed"
    if kind in ("int_parsing", "int_from_float", "int_type"):
        return "Must be a whole number"
    if kind in ("float_parsing", "float_type"):
        return "Must be a number"
    for key, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if key in context:
            return f"Must be {words} {context[key]:g}"
    return message[:1].upper() + message[1:]


def required_errors(model: type[JobOptions], values: dict[str, Any]) -> dict[str, str]:
    """Fields that are empty and without which the job cannot run, each with "Needed"."""
    return {
        name: "Needed"
        for name, info in model.model_fields.items()
        if info.is_required() and values.get(name) in (None, "", [])
    }


def stand_ins(model: type[JobOptions], names: Iterable[str]) -> dict[str, Any]:
    """Values for required options that are still empty, so that the rules between the others can be checked."""
    return {n: ["-"] if str(model.model_fields[n].annotation).startswith("list") else "-" for n in names}


def path_errors(
    model: type[JobOptions], values: dict[str, Any], root: Path, expected: frozenset[str] = frozenset()
) -> dict[str, str]:
    """By field, what is wrong with a file or folder that does not exist and that no job is ``expected`` to write (paths
    from the project's directory, ``root``).

    Looks at the disk: call from a worker thread.
    """
    found: dict[str, str] = {}
    source = root / str(values.get("source_dir") or ".")
    for name in model.model_fields:
        extra = hints(model, name)
        if name in HIDDEN or extra["widget"] not in ("file", "directory", "mask"):
            continue
        value = values.get(name)
        for path in value if isinstance(value, list) else [value]:
            if not path or name == "scratch_dir":
                continue
            if os.path.normpath(os.path.join(str(values.get("source_dir") or "."), str(path))) in expected:
                continue
            full = (root if name == "source_dir" else source) / str(path)
            wrong = _path_problem(full, extra)
            if wrong:
                found[name] = wrong
    return found


def _path_problem(path: Path, extra: dict[str, Any]) -> str:
    if extra["widget"] == "directory":
        return "" if path.is_dir() else ("Is a file, not a folder" if path.exists() else "This folder does not exist")
    endings = ("", ".mrcs", ".mrc") if "*.mrcs" in (extra["filter"] or "") else ("",)
    if any(path.with_name(path.name + ending).is_file() for ending in endings):
        return ""
    if path.is_dir():
        return "Is a folder, not a file"
    where = path.parent if path.parent.is_dir() else None
    return f"Not found in {where}" if where is not None else f"The folder {path.parent} does not exist"


def complete(model: type[JobOptions], values: dict[str, Any], job_dir: str) -> JobOptions:
    """Validated options of a job that will live in ``job_dir``. Raises pydantic's ValidationError."""
    shown = {name: value for name, value in values.items() if name in model.model_fields and name not in HIDDEN}
    return model.model_validate({**shown, "job_dir": job_dir})


def command_text(options: JobOptions) -> str:
    """The command line as one pastes it into a terminal in the project directory."""
    return shlex.join(command_line(options))


def expand(values: dict[str, Any], sweeps: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """One dictionary of values for each combination of the swept options; one alone without sweeps."""
    names = [name for name in sweeps if sweeps[name]]
    return [
        {**values, **dict(zip(names, combination))}
        for combination in itertools.product(*(sweeps[name] for name in names))
    ]


def sweep_alias(base: str, changes: dict[str, Any]) -> str:
    """A name that tells the jobs of a sweep apart, e.g. "train_lr_0.001"."""
    parts = [f"{name}_{value}" for name, value in changes.items()]
    text = "_".join(filter(None, [base, *parts]))
    return "".join("_" if c in ' *?()/"\\|#<>&%{}$' else c for c in text)


def plain_values(model: type[JobOptions], values: dict[str, Any]) -> dict[str, Any]:
    """``values`` as numbers and words rather than text as typed; those equal to the default are left out. Raises as
    :func:`typed`."""
    return {n: value for n, value in typed(model, values).items() if value != model.model_fields[n].default}


def typed(model: type[JobOptions], values: dict[str, Any]) -> dict[str, Any]:
    """``values`` as JSON holds them: numbers, yes or no, and words rather than text as typed. "" and "None" leave an
    option unset that is no text.

    Required options may still be missing or empty, and rules between options are asked when the job is complete.
    Raises InputError for the first value that its option does not allow, and for a name that is no option.
    """
    plain = without_blanks(model, values)
    blank = stand_ins(model, required_errors(model, plain))
    try:
        model.model_validate({**plain, **blank})
    except ValidationError as error:
        if error.errors()[0]["loc"]:  # a rule of one option: those between options are asked after them
            raise explain(error) from None
    kinds: dict[str, Any] = {name: model.model_fields[name].annotation for name in plain if name not in blank}
    return plain | {name: TypeAdapter(kind).validate_python(plain[name]) for name, kind in kinds.items()}
