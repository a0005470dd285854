"""The readers of the program, each with small valid files to begin with (see ``fuzz``)."""

from __future__ import annotations

import functools
import io
import json
import pickle
import runpy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STAR = Path(__file__).parent / "data" / "star"
OTHER_PROGRAMS = Path(__file__).parent / "data" / "other_programs"
PUBLISHED = Path(__file__).parent / "data" / "published_model"


@dataclass(frozen=True)
class Target:
    """A reader: ``read`` takes a file that was written under the name ``file``; ``seeds`` are valid contents.

    ``kind``: "text", "json", "zip" or "binary", how the content can be changed and still be looked into.
    """

    name: str
    what: str
    kind: str
    file: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], object]


TARGETS: dict[str, Target] = {}


def target(
    name: str, kind: str, file: str, seeds: Callable[[], list[bytes]]
) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    """Add the function below as a target; its docstring says what it reads."""

    def add(read: Callable[[Path], object]) -> Callable[[Path], object]:
        what = (read.__doc__ or "").strip()
        TARGETS[name] = Target(name, what, kind, file, functools.cache(seeds), read)
        return read

    return add


def written(write: Callable[[Path], object], name: str = "file") -> bytes:
    """The bytes that ``write`` puts into a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


def npy(array: np.ndarray) -> bytes:
    """A .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays: Any) -> list[bytes]:
    """A .npz file, plain and packed."""
    buffers = io.BytesIO(), io.BytesIO()
    np.savez(buffers[0], **arrays)
    np.savez_compressed(buffers[1], **arrays)
    return [buffer.getvalue() for buffer in buffers]


RANDOM = np.random.default_rng(0)
ROTATIONS = np.linalg.qr(RANDOM.normal(size=(5, 3, 3)))[0]
ROTATIONS *= np.linalg.det(ROTATIONS)[:, None, None]
CTF = np.tile([32, 4.0, 15000, 14000, 30, 300, 2.7, 0.1, 0], (5, 1))
Z = RANDOM.normal(size=(5, 3)).astype(np.float32)


# ---- particle metadata ----------------------------------------------------------------------------------------------


def _stars() -> list[bytes]:
    return [path.read_bytes() for path in sorted(STAR.glob("*.star"))]


@target("star", "text", "particles.star", _stars)
def _star(path: Path) -> object:
    """Particles of RELION as a table"""
    from gaussianem_core.io.particle_table import read_particles

    return read_particles(path, find_stacks=False)


@target("star-columns", "text", "particles.star", _stars)
def _star_columns(path: Path) -> object:
    """Any column of a STAR file"""
    from gaussianem_core.io.particle_table import column_names, read_particle_column

    return [read_particle_column(path, name) for name in column_names(path)]


@target("star-rows", "text", "particles.star", _stars)
def _star_rows(path: Path) -> object:
    """Rows of a STAR file copied, with columns"""
    from gaussianem_core.io.particle_rows import write_star_rows
    from gaussianem_core.io.star import find_particle_table, scan_star

    count = find_particle_table(scan_star(path)).n_rows
    return write_star_rows(path, path.with_name("copy.star"), None, {"rlnClassNumber": np.ones(count)}, renew=True)


@target("stacks", "text", "particles.star", lambda: [b"1@a.mrcs", b"3@Extract/job1/b.mrcs", b"/tmp/c.mrcs"])
def _stack_names(path: Path) -> object:
    """Files that names of stacks stand for"""
    from gaussianem_core.io.stack_paths import resolve_stacks

    names = path.read_bytes().decode("utf-8", "surrogateescape").splitlines()
    return resolve_stacks(names, path, path.parent, path.parent)


@functools.cache
def _tilt_files(kind: str) -> dict[str, bytes]:
    """The files of a small tilt series, by name."""
    write_set = runpy.run_path(str(Path(__file__).parent / "core" / "io" / "test_tilt_series.py"))["write_set"]
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder), kind)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _tilt_seeds(name: str) -> list[bytes]:
    return [_tilt_files(kind)[name] for kind in ("relion", "warp")]


def _tilt_set(path: Path) -> object:
    """What the particles of the set are of which one file was changed."""
    from gaussianem_core.io.particle_table import read_particles

    for name, content in (_tilt_files("relion") | _tilt_files("warp")).items():
        if name != path.name and not (path.parent / name).exists():
            (path.parent / name).write_bytes(content)
    return read_particles(path.parent / "a_optimisation_set.star", project_dir=path.parent)


@target("tilt series", "text", "tomograms.star", lambda: _tilt_seeds("tomograms.star"))
def _tilt_tomograms(path: Path) -> object:
    """Tomograms and their tilt images, in an optimisation set"""
    return _tilt_set(path)


@target("particles of tilt series", "text", "particles.star", lambda: _tilt_seeds("particles.star"))
def _tilt_particles(path: Path) -> object:
    """Particles with visible frames, in an optimisation set"""
    return _tilt_set(path)


def _cs_seeds() -> list[bytes]:
    fields = [
        ("uid", "<u8"),
        ("blob/path", "S12"),
        ("blob/idx", "<u4"),
        ("blob/shape", "<u4", (2,)),
        ("blob/psize_A", "<f4"),
        ("blob/sign", "<f4"),
        ("alignments3D/pose", "<f4", (3,)),
        ("alignments3D/shift", "<f4", (2,)),
        ("alignments3D/psize_A", "<f4"),
        ("alignments3D/split", "<u4"),
        ("ctf/df1_A", "<f4"),
        ("ctf/df2_A", "<f4"),
        ("ctf/df_angle_rad", "<f4"),
        ("ctf/accel_kv", "<f4"),
        ("ctf/cs_mm", "<f4"),
        ("ctf/amp_contrast", "<f4"),
        ("ctf/phase_shift_rad", "<f4"),
        ("location/micrograph_path", "S8"),
    ]
    table = np.zeros(4, fields)
    table["uid"], table["blob/path"], table["blob/shape"] = [7, 3, 5, 1], b"J1/a.mrcs", 32
    table["blob/psize_A"] = table["alignments3D/psize_A"] = 2.0
    table["alignments3D/pose"] = RANDOM.normal(size=(4, 3))
    for name, value in (("df1_A", 15000), ("df2_A", 14000), ("accel_kv", 300), ("cs_mm", 2.7), ("amp_contrast", 0.1)):
        table[f"ctf/{name}"] = value
    return [npy(table)]


@target("cs", "binary", "particles.cs", _cs_seeds)
def _cs(path: Path) -> object:
    """Particles of cryoSPARC as a table"""
    from gaussianem_core.io.particle_table import read_particles

    return read_particles(path, find_stacks=False)


@target("cs-fields", "binary", "particles.cs", _cs_seeds)
def _cs_fields(path: Path) -> object:
    """Any field of a cryoSPARC file, and rows of it copied"""
    from gaussianem_core.io.particle_rows import write_cs_rows
    from gaussianem_core.io.particle_table import column_names, read_particle_column

    columns = [read_particle_column(path, name) for name in column_names(path)]
    return columns, write_cs_rows(path, path.with_name("copy.cs"), [0])


# ---- images and maps ------------------------------------------------------------------------------------------------


def _map_seeds() -> list[bytes]:
    from gaussianem_core.io.mrc import new_header

    values = RANDOM.normal(size=(8, 8, 8))
    return [
        new_header((8, 8, 8), kind, 2.0, is_stack=False) + values.astype(kind).tobytes()
        for kind in (np.float32, np.float16, np.int16, np.int8)
    ]


@target("map", "binary", "map.mrc", _map_seeds)
def _map(path: Path) -> object:
    """A map (MRC)"""
    from gaussianem_core.io.mrc import read_map

    return read_map(path)


@target("stack", "binary", "stack.mrcs", _map_seeds)
def _stack(path: Path) -> object:
    """A stack of images (MRC)"""
    from gaussianem_core.io.image_stack import ImageStack

    with ImageStack.from_file(path) as images:
        return images.groups(), images.read(np.arange(min(len(images), 8)))


@target("mask", "binary", "mask.mrc", _map_seeds)
def _mask_map(path: Path) -> object:
    """A mask on the grid of a map"""
    return _mask(path)


@target("mask-npy", "binary", "mask.npy", lambda: [npy(np.array([1, 0, 1, 0, 1])), npy(np.ones(5, bool))])
def _mask(path: Path) -> object:
    """A mask of Gaussians as an array"""
    import torch

    from gaussianem_core.model.configuration import load_configuration
    from gaussianem_core.model.gaussians import Gaussians, load_mask

    five = torch.zeros(5)
    gaussians = Gaussians(torch.linspace(-0.5, 0.5, 15).reshape(5, 3), five, five, 0.01, 0.02)
    return load_mask(path, gaussians, load_configuration(PUBLISHED / "cfg.json"))


@target("mask-txt", "text", "mask.txt", lambda: [b"1\n0\n1\n0\n1\n", b"# Gaussians\n1 0 1 1 1"])
def _mask_text(path: Path) -> object:
    """A mask of Gaussians as text"""
    return _mask(path)


# ---- what preprocess writes -----------------------------------------------------------------------------------------


def _pose_seeds() -> list[bytes]:
    packed = np.concatenate([ROTATIONS.reshape(5, 9), RANDOM.normal(size=(5, 2))], axis=1)
    return [npy(packed.astype(np.float32)), npy(packed), npy(RANDOM.normal(size=(5, 5)) * 50)]


@target("poses", "binary", "poses.npy", _pose_seeds)
def _poses(path: Path) -> object:
    """Poses, of today and older"""
    from gaussianem_core.imaging.pose import load_poses

    return load_poses(path)


@target("ctf", "binary", "ctf.npy", lambda: [npy(CTF.astype(np.float32)), npy(CTF), npy(np.asfortranarray(CTF))])
def _ctf(path: Path) -> object:
    """CTF parameters"""
    from gaussianem_core.imaging.ctf import load_ctf

    return load_ctf(path)


@target("cfg", "json", "cfg.json", lambda: [(PUBLISHED / "cfg.json").read_bytes()])
def _cfg(path: Path) -> object:
    """The configuration"""
    from gaussianem_core.model.configuration import load_configuration

    return load_configuration(path)


def _ply_seeds() -> list[bytes]:
    from plyfile import PlyData

    published = PlyData.read(str(PUBLISHED / "point_cloud.ply"))
    short = published["vertex"].data[:6]
    from plyfile import PlyElement

    made = []
    for text in (False, True):
        buffer = io.BytesIO()
        PlyData([PlyElement.describe(short, "vertex")], text=text).write(buffer)
        made.append(buffer.getvalue())
    lists = np.empty(3, [("x", "f4"), ("vertex_index", "O")])
    lists["x"], lists["vertex_index"] = 1, [np.arange(3, dtype="i4")] * 3
    buffer = io.BytesIO()
    vertex, face = PlyElement.describe(short, "vertex"), PlyElement.describe(lists, "face")
    PlyData([vertex, face]).write(buffer)
    return [*made, buffer.getvalue()]


@target("ply", "binary", "point_cloud.ply", _ply_seeds)
def _ply(path: Path) -> object:
    """Gaussians (PLY), binary and text"""
    from gaussianem_core.model.gaussians import load_gaussians

    return load_gaussians(path, 0.01, 0.02)


@target("ply-txt", "text", "point_cloud.ply", _ply_seeds)
def _ply_text(path: Path) -> object:
    """Gaussians (PLY), changed as text"""
    return _ply(path)


# ---- what train writes ----------------------------------------------------------------------------------------------


def _latents_seeds() -> list[bytes]:
    content = {"z_mu": Z, "ind": np.arange(5)[:, None], "z_logvar": Z - 1}
    return [(PUBLISHED / "weights.0.output.pkl").read_bytes()] + [pickle.dumps(content, i) for i in (2, 4, 5)]


@target("latents", "binary", "weights.0.output.pkl", _latents_seeds)
def _latents(path: Path) -> object:
    """Latents in a pickle of arrays"""
    from gaussianem_core.io.latents import load_latents

    return load_latents(path)


def _other_latents_seeds() -> list[bytes]:
    two = pickle.dumps(Z.astype(np.float32), 4) + pickle.dumps(Z.astype(np.float32) - 1, 4)
    by_zdim = {"latent_coords": {2: Z[:, :2]}, "latent_precision": {2: np.tile(np.eye(2), (len(Z), 1, 1))}}
    return [(OTHER_PROGRAMS / "z.2.pkl").read_bytes(), two, pickle.dumps(by_zdim, 4)]


@target("latents of cryoDRGN", "binary", "z.2.pkl", _other_latents_seeds)
def _other_latents(path: Path) -> object:
    """Latents of another program in pickles of arrays, and of arrays by zdim"""
    from gaussianem_core.io.other_latents import read_other_latents

    return read_other_latents(path)


@target(
    "latents in a table",
    "text",
    "z.csv",
    lambda: [b"name,z_1,z_2\na,1.5,2\nb,-1,0\nc,1e-3,4\n", b"1 2\n3 4\n", b"uid,z_1\n7,1\n8,2\n"],
)
def _other_table(path: Path) -> object:
    """Latents of another program in a table"""
    from gaussianem_core.io.other_latents import read_other_latents

    return read_other_latents(path)


@target("rows of latents", "binary", "ind.pkl", lambda: [(OTHER_PROGRAMS / "ind.pkl").read_bytes()])
def _other_rows(path: Path) -> object:
    """Which particles another program's latents are of"""
    from gaussianem_core.io.other_latents import read_indices

    return read_indices(path, 200)


@functools.cache
def _small_network() -> tuple[Any, bytes, bytes]:
    import torch

    from gaussianem_core.model.configuration import load_configuration
    from gaussianem_core.model.network import build_network

    with tempfile.TemporaryDirectory() as folder:
        cfg = json.loads((PUBLISHED / "cfg.json").read_text())
        small = {"qdim": 8, "gaussian_kdim": 8, "feature_kdim": 8, "feature_dim": 8, "gaussian_embedding_dim": 4}
        cfg["cfg"].update(small, qlayers=1, gaussian_klayers=1, feature_klayers=1, zdim=2, nDetector=[8, 8])
        path = Path(folder) / "cfg.json"
        path.write_text(json.dumps(cfg))
        configuration = load_configuration(path)
    network = build_network(configuration)
    weights = {
        "epoch": 0,
        "model_state_dict": network.state_dict(),
        "gaussians": {"positions": torch.rand(5, 3), "raw_density": torch.rand(5), "raw_scale": torch.rand(5)},
        "movable": torch.ones(5, dtype=torch.bool),
        "detail": torch.rand(8, 8, 8),
    }
    optimiser = torch.optim.Adam(network.parameters())
    state = {
        "epoch": 1,
        "optimiser": optimiser.state_dict(),
        "table": {"mean": torch.rand(5, 2)},
        "list": [1, 2.0, "a"],
    }
    files = []
    for content in (weights, state):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        files.append(buffer.getvalue())
    return configuration, files[0], files[1]


@target("checkpoint", "zip", "weights.0.pkl", lambda: [_small_network()[1]])
def _checkpoint(path: Path) -> object:
    """A trained network with its Gaussians"""
    import torch

    from gaussianem_core.io.checkpoint import load_checkpoint
    from gaussianem_core.model.network import load_network
    from gaussianem_core.model.trained_model import _gaussians_of

    configuration = _small_network()[0]
    content = load_checkpoint(path)
    assert all(isinstance(name, str | int) for name in content)
    gaussians = _gaussians_of(content, configuration)
    with torch.no_grad():
        return load_network(configuration, content["model_state_dict"]), gaussians


@target("state", "zip", "training_state.pt", lambda: [_small_network()[2]])
def _state(path: Path) -> object:
    """The state of a training"""
    from gaussianem_core.io.checkpoint import load_tensors

    return load_tensors(path, "--resume", ("epoch",), "Start again.")


# ---- what other jobs read -------------------------------------------------------------------------------------------


@target("z-txt", "text", "z.txt", lambda: [b"# latents\n0.1 0.2 0.3\n1 2 3\n", b"0.1,0.2\n1e-3,4\n"])
def _z_text(path: Path) -> object:
    """Latents as text"""
    from gaussianem_core.io.latents import read_latent_rows

    return read_latent_rows(path)


@target("z-npy", "binary", "z.npy", lambda: [npy(Z), npy(Z[0])])
def _z_npy(path: Path) -> object:
    """Latents as an array"""
    return _z_text(path)


@target("indices", "text", "particles.txt", lambda: [b"0\n3-7\n1,2 9 # some\n"])
def _indices(path: Path) -> object:
    """Numbers of particles"""
    from gaussianem_core.io.row_numbers import read_row_numbers

    return read_row_numbers(path, 100, "particle_indices")


def _truth_seeds() -> list[bytes]:
    molecule = {"positions": RANDOM.normal(size=(3, 6, 3)) * 0.1, "densities": np.ones(6), "sigmas": np.full(6, 0.05)}
    of_points = npz(
        state=np.linspace(0, 1, 5),
        frame=np.array([0, 1, 2, 1, 0]),
        present=np.array([True, False, True, True, True]),
        removable=np.arange(6) > 3,
        label=np.zeros(5, int),
        box=16,
        apix=2.0,
        snr=0.1,
        periodic=False,
        **molecule,
    )
    return [*of_points, npz(label=np.array([0, 1, 1, 0, 1]), volumes=RANDOM.normal(size=(2, 8, 8, 8)))[1]]


@target("truth", "zip", "truth.npz", _truth_seeds)
def _truth(path: Path) -> object:
    """What a simulation knows"""
    from gaussianem_core.simulation.ground_truth import load_truth

    return load_truth(path)


def _trajectory_seeds() -> list[bytes]:
    return npz(
        xyz=RANDOM.normal(size=(3, 6, 3)), weight=np.ones(6), resid=np.arange(6), sigma=np.ones(6), arm=np.arange(6) > 3
    )


@target("trajectory", "zip", "model.npz", _trajectory_seeds)
def _trajectory(path: Path) -> object:
    """A trajectory (NumPy)"""
    from gaussianem_core.simulation.trajectory import read_trajectory

    return read_trajectory(path)


def _structure_seeds(kind: str) -> list[bytes]:
    import gemmi

    structure = gemmi.Structure()
    for number in (1, 2):
        model = gemmi.Model(number)
        chain = gemmi.Chain("A")
        for i in range(4):
            residue = gemmi.Residue()
            residue.name, residue.seqid = "ALA", gemmi.SeqId(i + 1, " ")
            for name, element in (("N", "N"), ("CA", "C")):
                atom = gemmi.Atom()
                atom.name, atom.element, atom.pos = name, gemmi.Element(element), gemmi.Position(3.8 * i, number, 0.5)
                residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
        structure.add_model(model)
    structure.setup_entities()
    text = structure.make_pdb_string() if kind == "pdb" else structure.make_mmcif_document().as_string()
    return [text.encode()]


@target("pdb", "text", "model.pdb", lambda: _structure_seeds("pdb"))
def _pdb(path: Path) -> object:
    """An atomic model (PDB)"""
    from gaussianem_core.io.atomic_model import read_backbone
    from gaussianem_core.simulation.trajectory import read_trajectory

    return read_trajectory(path), read_backbone(path)


@target("mmcif", "text", "model.cif", lambda: _structure_seeds("cif"))
def _mmcif(path: Path) -> object:
    """An atomic model (mmCIF)"""
    return _pdb(path)


# ---- jobs -----------------------------------------------------------------------------------------------------------


def _options_seeds() -> list[bytes]:
    from gaussianem_core.options import TrainOptions, options_json

    return [options_json(TrainOptions(source_dir="prep", epoch=3, gpus="0,1")).encode()]


@target("options", "json", "options.json", _options_seeds)
def _options(path: Path) -> object:
    """Options of a job"""
    from gaussianem_core.cli import parse
    from gaussianem_core.job.input_paths import resolve_input
    from gaussianem_core.options import TrainOptions

    options = parse(TrainOptions, ["--options", str(path)])
    return options, options.output_directory(), resolve_input(options, "cfg")


def _event_seeds() -> list[bytes]:
    events = [
        {"t": 1.0, "type": "start", "command": ["gaussianem", "train"], "version": "1", "host": "h", "pid": 3},
        {"t": 2.0, "type": "progress", "stage": "train", "done": 5, "total": 10, "unit": "images", "rate": 2.5},
        {"t": 3.0, "type": "metric", "stage": "train", "step": 1, "epoch": 0.5, "values": {"loss": 1.5, "kl": None}},
        {"t": 4.0, "type": "artifact", "kind": "checkpoint", "path": "weights.0.pkl", "label": "network", "info": {}},
        {"t": 5.0, "type": "message", "level": "info", "text": "a sentence"},
        {"t": 6.0, "type": "end", "status": "succeeded", "reason": "", "seconds": 5.0},
    ]
    return ["".join(json.dumps(event) + "\n" for event in events).encode()]


@target("events", "json", "events.jsonl", _event_seeds)
def _events(path: Path) -> object:
    """Events of a job, shown in a terminal"""
    import contextlib

    from gaussianem_core.job.events import read_events
    from gaussianem_core.job.terminal import Terminal

    events = read_events(path)[0]
    with contextlib.redirect_stdout(io.StringIO()) as shown, Terminal() as terminal:
        for event in events:
            terminal.show(event)
    assert "\x1b" not in shown.getvalue()
    return events


def _message_seeds() -> list[bytes]:
    from gaussianem_core.runtime.pipe import write_message

    buffer = io.BytesIO()
    write_message(buffer, {"op": "decode", "id": 3, "channel": "drag"}, {"z": Z})
    return [buffer.getvalue()]


@target("pipe", "binary", "pipe", _message_seeds)
def _message(path: Path) -> object:
    """A message between application and decoder"""
    from gaussianem_core.runtime.pipe import PipeClosed, read_message

    try:
        with path.open("rb") as stream:
            return read_message(stream)
    except PipeClosed:
        return None


# ---- the application ------------------------------------------------------------------------------------------------


def _in_project(path: Path) -> Path:
    """Root of a project of one job, in whose directory ``path`` lies (or that itself holds ``path``)."""
    root = next(parent for parent in path.parents if parent.name == "project")
    (root / "Train" / "job001").mkdir(parents=True, exist_ok=True)
    if path.name != "default_pipeline.star":
        (root / "default_pipeline.star").write_bytes(_graph_seeds()[0])
    return root


@functools.cache
def _graph_seeds() -> list[bytes]:
    from gaussianem_gui.project.project import Project

    with tempfile.TemporaryDirectory() as folder:
        project = Project.create(Path(folder) / "project")
        for _ in range(2):
            project.new_job("train", {"source_dir": "prep"})
        return [(Path(folder) / "project" / "default_pipeline.star").read_bytes()]


@target("graph", "text", "project/default_pipeline.star", _graph_seeds)
def _graph(path: Path) -> object:
    """The graph of a project"""
    from gaussianem_gui.project.graph_file import load_graph

    return load_graph(path.parent, read_only=True)


def _job_star_seeds() -> list[bytes]:
    from gaussianem_gui.project.job_star import job_star_text

    return [job_star_text("gaussianem.train", {"source_dir": "prep dir", "epoch": 3, "gpus": "0,1"}).encode()]


@target("job-star", "text", "project/Train/job001/job.star", _job_star_seeds)
def _job_star(path: Path) -> object:
    """A job as RELION writes it"""
    from gaussianem_core.options import TrainOptions
    from gaussianem_gui.project.job_star import read_job_star, values_from_star

    return values_from_star(TrainOptions, read_job_star(path)[1])


def _look(path: Path) -> object:
    """What the list of jobs shows of a job."""
    from gaussianem_gui.project.job import Job

    job = Job(_in_project(path), "Train/job001/", "gaussianem.train")
    return job.record(), job.status(), job.artifacts(), job.values(), job.last_events(), job.note()


def _record_seeds() -> list[bytes]:
    record = {
        "version": 1,
        "created": 1.7e9,
        "run": 2,
        "requested": 1.7e9,
        "where": "local",
        "gpus": [0, 1],
        "after": ["Train/job002/"],
        "events_from": 10,
        "started_at": 1.7e9,
    }
    return [json.dumps(record).encode()]


@target("job-record", "json", "project/Train/job001/.gaussianem_job.json", _record_seeds)
def _record(path: Path) -> object:
    """Our notes on a job"""
    return _look(path)


@target("job-events", "json", "project/Train/job001/events.jsonl", _event_seeds)
def _job_events(path: Path) -> object:
    """Events of a job, as its row and its curves show them"""
    from gaussianem_gui.execution.history import History

    (path.parent / "RELION_JOB_EXIT_SUCCESS").touch()
    history = History(path.parent)
    history.poll()
    return _look(path), history


_PROCESS = {"host": "h", "boot": "b", "pid": 123, "ticks": 5, "started": 1.7e9, "t": 1.7e9}


@target("heartbeat", "json", "project/Train/job001/heartbeat.json", lambda: [json.dumps(_PROCESS).encode()])
def _heartbeat(path: Path) -> object:
    """A program's sign of life"""
    return _look(path)


@target(
    "exit-note",
    "json",
    "project/Train/job001/.gaussianem_exit.json",
    lambda: [json.dumps({"run": 2, "code": 1, "signal": 0, "ended": 1.7e9, "reason": "the disk is full"}).encode()],
)
def _exit_note(path: Path) -> object:
    """How a run ended"""
    path.with_name(".gaussianem_job.json").write_bytes(_record_seeds()[0])
    return _look(path)


@target("job-options", "json", "project/Train/job001/options.json", _options_seeds)
def _job_options(path: Path) -> object:
    """Options of a job of a project"""
    return _look(path)


@target("settings", "json", "settings.json", lambda: [json.dumps({"theme": "dark", "scale": 1.0}).encode()])
def _settings(path: Path) -> object:
    """Settings of the application"""
    from gaussianem_gui.project import settings

    return settings.read(path), settings.Settings(None, path)


def _workflow_seeds() -> list[bytes]:
    from gaussianem_gui.execution import workflow

    return [
        written(lambda path, each=each: workflow.save(each, path), "w.json") for each in workflow.builtin().values()
    ]


@target("workflow", "json", "workflow.json", _workflow_seeds)
def _workflow(path: Path) -> object:
    """A workflow"""
    from gaussianem_gui.execution import workflow

    return workflow.load(path)


def _template_seeds() -> list[bytes]:
    folder = Path(__file__).parents[1] / "resources" / "queues"
    return [path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file()]


@target("template", "text", "template.sh", _template_seeds)
def _template(path: Path) -> object:
    """A template of a queue"""
    from gaussianem_gui.execution import cluster
    from gaussianem_gui.project.job import Job

    root = path.parent / "elsewhere"
    settings = cluster.ClusterSettings(preset="slurm", template=str(path))
    text = cluster.template_text(settings, root)
    return cluster.script(settings, Job(root, "Train/job001/", "gaussianem.train"), ["gaussianem", "train"], text)


def _selection_seeds() -> list[bytes]:
    from gaussianem_gui.explorer.selections import FILE, Selections

    with tempfile.TemporaryDirectory() as folder:
        selections = Selections(5, Path(folder), "Train/job001/")
        selections.apply(np.arange(5) > 2, "replace", {"shape": "lasso", "x": "PC 1", "y": "PC 2"})
        selections.keep("one")
        selections.save()
        return [next(Path(folder).rglob(FILE)).read_bytes()]


@target("selections", "json", "selections.json", _selection_seeds)
def _selections(path: Path) -> object:
    """Selections of particles"""
    from gaussianem_gui.explorer.selections import Selections, describe

    found = Selections(5, path.parent, "Train/job001/")
    return [describe(each.steps) for each in found.named], found.problem


def _analysis_seeds() -> list[bytes]:
    return npz(
        z_mu=Z,
        scores=Z,
        labels=np.array([1, 2, 1, 2, 3], np.int32),
        umap=RANDOM.normal(size=(5, 2)),
        umap_rows=np.arange(5),
        centres=Z[:3],
        class_particles=np.arange(3),
    )


@target("analysis", "zip", "analysis/analysis.npz", _analysis_seeds)
def _analysis(path: Path) -> object:
    """Arrays of an analysis, in the explorer"""
    from types import SimpleNamespace

    from gaussianem_gui.explorer.particle_columns import _add_analysis

    five: Any = type("Five", (SimpleNamespace,), {"__len__": lambda self: 5})(
        columns={}, labels=None, centres=None, varies=True
    )
    _add_analysis(five, SimpleNamespace(analysis=path.parent), lambda *column: None)  # type: ignore[arg-type]
    return five


@target("gaussians-shown", "binary", "gaussians.ply", _ply_seeds)
def _gaussians_shown(path: Path) -> object:
    """Gaussians in the viewer"""
    from gaussianem_gui.explorer.volumes import load_gaussians

    return load_gaussians(path)


@target("summary", "json", "summary.json", lambda: [json.dumps({"particles": 5, "trust": {"a": [1.5, 2]}}).encode()])
def _summary(path: Path) -> object:
    """A summary shown as a table"""
    from gaussianem_gui.explorer.volumes import read_table

    return read_table(path)
