"""Files of earlier jobs that can fill an input, and the options that follow from choosing a job.

An option says with ``produces`` what kind of file it takes (``gaussianem_core.options``); a file's kind is known from
its label in the graph (``gaussianem_core.job.events.ARTIFACTS``), or RELION's own label.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from gaussianem_core.errors import InputError
from gaussianem_core.job.events import ARTIFACTS
from gaussianem_core.options import JOB_OPTIONS, JobOptions, hints
from gaussianem_gui.project.graph import Graph, job_number
from gaussianem_gui.project.job import job_type_of

# First words of RELION's labels (version 4 and 5) that an input of a kind takes.
_FOREIGN = {
    "particles": ("ParticleGroupMetadata", "ParticlesData", "relion.ParticleStar"),
    "map": ("DensityMap", "relion.DensityMap"),
    "mask": ("Mask3D", "relion.Mask"),
    "model": ("AtomCoords",),
}
# The folder of a prepared data set is "." for us: files are given relative to the project.
FOLDER_KINDS = ("preprocessed",)
FAR = 60  # jobs before it that are searched for an input, nearest first
PUBLISHED_EPOCHS = 20  # stands in the expected name where the training chooses the number itself


@dataclass(frozen=True)
class Choice:
    """A file that can fill an input: path, kind, label, and the job that made it ("" for none)."""

    path: str
    kind: str
    label: str
    job: str = ""
    alias: str = ""
    ready: bool = True  # False while the job that will write it is not done


def expected_outputs(job_type: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Files that a job will write, name in its directory -> kind, as far as that is known before it runs.

    The names are the published program's; a waiting job that was given one is given the actual file once it is there
    (``Project.bind``).
    """
    if job_type == "preprocess":
        return {
            "img_stack.mrcs": "stack",
            "poses.npy": "poses",
            "ctf.npy": "ctf",
            "point_cloud.ply": "gaussians",
            "cfg.json": "configuration",
            "particles.star": "particles",
            "consensus_map.mrc": "map",
        }
    if job_type == "train":
        last = int(values.get("epoch") or PUBLISHED_EPOCHS) - 1
        return {f"weights.{last}.pkl": "checkpoint", f"weights.{last}.output.pkl": "latents"}
    if job_type == "simulate":
        return {"particles.star": "particles", "consensus.mrc": "map", "truth.npz": "truth"}
    if job_type == "import":
        kinds = {os.path.basename(f): str(values.get("kind", "auto")) for f in values.get("files") or ()}
        return {f: guess_kind(f) if kind == "auto" else kind for f, kind in kinds.items()}
    return {}


def guess_kind(path: str) -> str:
    """Kind of an imported file, by its name alone; "" if the name does not tell."""
    name = os.path.basename(path).lower()
    if name.endswith((".star", ".cs", ".csg")):
        return "particles"
    if name.endswith((".mrc", ".map")):
        return "mask" if "mask" in name else "map"
    return "model" if name.endswith((".cif", ".pdb", ".ent")) else ""


@functools.lru_cache(maxsize=4096)
def is_kind(label: str, kind: str) -> bool:
    """True if a node with that label can fill an input of that kind."""
    if label == ARTIFACTS.get(kind):
        return True
    return any(label == word or label.startswith(word + ".") for word in _FOREIGN.get(kind, ()))


_KIND_OF_LABEL = {label: kind for kind, label in reversed(ARTIFACTS.items())}


def kind_of(label: str) -> str:
    """Artifact kind of a node label, "" if there is none. ``map`` stands for all density maps."""
    return _KIND_OF_LABEL.get(label) or next((kind for kind in _FOREIGN if is_kind(label, kind)), "")


def input_fields(model: type[JobOptions]) -> dict[str, str]:
    """Options of ``model`` that an earlier job can fill, with their kinds."""
    found = {}
    for name in model.model_fields:
        kind = hints(model, name).get("produces")
        if isinstance(kind, str):
            found[name] = kind
    return found


def is_path_field(model: type[JobOptions], name: str) -> bool:
    """True if an option is a file that the job reads."""
    hint = hints(model, name)
    return bool(hint.get("produces") or hint.get("widget") in ("file", "mask")) and name != "source_dir"


def choices(graph: Graph, kind: str) -> list[Choice]:
    """Files in the graph that fill an input of that kind, those of the newest job first."""
    maker = {node: process for process, node in graph.output_edges}
    found = []
    for node, label in graph.nodes.items():
        if is_kind(label, kind):
            job = maker.get(node, "")
            alias = graph.processes[job].alias if job in graph.processes else ""
            ready = job not in graph.processes or graph.processes[job].status == "Succeeded"
            found.append(Choice(node, kind, label, job, alias.rstrip("/").rsplit("/", 1)[-1], ready))
    return sorted(found, key=lambda choice: (-job_number(choice.job), choice.path))


def output_of(graph: Graph, job: str, kind: str, root: Path | None = None) -> str:
    """The last file of that kind that ``job`` made (and that exists under ``root``); a half map only if there is no
    other. "" for none."""
    found = [node for node in graph.outputs(job) if is_kind(graph.nodes.get(node, ""), kind)]
    if root is not None:
        found = [node for node in found if (root / node).exists()]
    whole = [n for n in found if "half" not in os.path.basename(n) and "half" not in graph.nodes[n].lower()]
    return (whole or found or [""])[-1]


def fill(
    graph: Graph,
    job_type: str,
    jobs: Sequence[str],
    values: Mapping[str, Any],
    values_of: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Options of a new job whose inputs come from ``jobs``, and from the jobs before them where those have none.

    ``values`` given by the user take precedence. ``values_of`` maps an earlier job to its options, so that a mask
    chosen for training is also the mask of the analysis. Raises InputError for a job that is not in the graph.
    """
    model = JOB_OPTIONS[job_type]
    parents, _ = graph.links()
    order = list(dict.fromkeys(_ancestors(graph, jobs, parents)))
    return _fill_from(graph, model, order, values, values_of)


def _fill_from(
    graph: Graph,
    model: type[JobOptions],
    order: Sequence[str],
    values: Mapping[str, Any],
    values_of: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    filled: dict[str, Any] = {}
    for name, kind in input_fields(model).items():
        if kind in FOLDER_KINDS:
            filled[name] = "."
            continue
        for job in order:
            path = output_of(graph, job, kind) or _input_of(graph, job, kind, values_of.get(job, {}))
            if path:
                filled[name] = path
                break
    if "source_dir" in model.model_fields:
        filled["source_dir"] = "."
    return {**filled, **values}


def _ancestors(graph: Graph, jobs: Iterable[str], parents: Mapping[str, list[str]]) -> Iterable[str]:
    level = []
    for key in jobs:
        process = graph.find(key)
        if process is None:
            raise InputError("job", "must be in the project", key, "Choose one of the list (gaussianem job list).")
        level.append(process.name)
    seen: set[str] = set()
    while level and len(seen) < FAR:
        yield from level
        seen.update(level)
        level = [p for name in level for p in parents.get(name, ()) if p not in seen]


def _input_of(graph: Graph, job: str, kind: str, values: Mapping[str, Any]) -> str:
    model = JOB_OPTIONS.get(str(values.get("job_type", "")))
    if model is None:
        return ""
    for name, wanted in input_fields(model).items():
        if wanted == kind and name in values and values[name]:
            return in_project(values, str(values[name]))
    return ""


def in_project(values: Mapping[str, Any], path: str) -> str:
    """An option's path relative to the project: it is relative to ``source_dir``, which is relative to the project."""
    if os.path.isabs(path):
        return path
    return os.path.normpath(os.path.join(str(values.get("source_dir") or "."), path))


def complete(job_type: str, filled: Mapping[str, Any]) -> bool:
    """True if every input that ``job_type`` requires is filled."""
    model = JOB_OPTIONS[job_type]
    required = [name for name, field in model.model_fields.items() if field.default is PydanticUndefined]
    required += [n for n, kind in input_fields(model).items() if kind not in ("mask", "particles", "latents")]
    return all(filled.get(name) for name in required)


def offers(graph: Graph, job: str) -> set[str]:
    """Kinds of files that ``job`` made."""
    return {kind for node in graph.outputs(job) if (kind := kind_of(graph.nodes.get(node, "")))}


def essential_kinds(job_type: str) -> set[str]:
    """Kinds of files of which a job must have made at least one itself to be offered as a start of ``job_type``."""
    kinds = set(input_fields(JOB_OPTIONS[job_type]).values()) - {"mask", "gaussians", "configuration", "truth"}
    return kinds if job_type in ("preprocess", "reconstruct") else kinds - {"particles", "map"}


def next_types(graph: Graph, job: str) -> list[str]:
    """Job types that can follow ``job``: it made one of their essential kinds, and no required input is missing."""
    made, own = offers(graph, job), job_type_of(graph.processes[job].type_label)
    types = [name for name in JOB_OPTIONS if name != own and made & essential_kinds(name)]
    if not types:
        return []
    order = list(dict.fromkeys(_ancestors(graph, [job], graph.links()[0])))
    return [t for t in types if complete(t, _fill_from(graph, JOB_OPTIONS[t], order, {}, {}))]


def sources(graph: Graph, job_type: str, limit: int = 200) -> list[str]:
    """The newest jobs that fill every required input of ``job_type``: at most ``limit``, of ``5 * limit`` tried."""
    kinds, parents = essential_kinds(job_type), graph.links()[0]
    found: list[str] = []
    looked = 0
    for name in sorted(graph.processes, key=lambda name: -job_number(name)):
        if len(found) == limit or looked == 5 * limit:
            break
        if offers(graph, name) & kinds and job_type_of(graph.processes[name].type_label) != job_type:
            looked += 1
            order = list(dict.fromkeys(_ancestors(graph, [name], parents)))
            if complete(job_type, _fill_from(graph, JOB_OPTIONS[job_type], order, {}, {})):
                found.append(name)
    return found


def input_nodes(root: Path, job_type: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Files that options name, project-relative, with their labels. Raises InputError for ``../`` out of the project.

    Absolute paths outside are allowed (data often lie elsewhere) but are no node of the graph.
    """
    model = JOB_OPTIONS[job_type]
    nodes: dict[str, str] = {}
    for name in model.model_fields:
        if not is_path_field(model, name) or not values.get(name):
            continue
        words = values[name] if isinstance(values[name], list | tuple) else [values[name]]
        for word in words:
            path = in_project(values, str(word))
            if os.path.isabs(path):
                inside = os.path.relpath(path, root)
                if inside.startswith(".."):
                    continue
                path = inside
            if path == ".." or path.startswith("../"):
                raise InputError(
                    f"option {name}",
                    "must not lead out of the project with ..",
                    word,
                    "Give the whole path from /, or import the file first.",
                )
            kind = hints(model, name).get("produces") or ""
            nodes[path] = ARTIFACTS.get(str(kind), "ProcessData")
    return nodes
