"""Estimates of what a job will need: particles, Gaussians, disk, GPU memory, time. No Qt, no torch here.

All figures are estimates from file headers; each names its basis. Reads the disk: call from a worker thread.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.io.mrc import read_header
from gaussianem_gui.execution.gpus import Gpu
from gaussianem_gui.project.job import State
from gaussianem_gui.project.project import Project
from gaussianem_gui.units import bytes_text, seconds_text

GIB = 2**30
DEFAULT_BOX = 128  # of Preprocess without downsample_size
DISK_RESERVE = 0.05  # share of a disk below which it counts as filling up
FLOP_PER_GAUSSIAN_IMAGE = 1.2e6  # forward and backward of the default network, per Gaussian and image
GPU_FLOPS, CPU_CORE_FLOPS = 6e13, 2e10  # reached in practice, not the data sheet's
BYTES_PER_GAUSSIAN_IMAGE = 2 * 2 * (3 * 128 + 4 * 256)  # bf16 activations kept for the backward pass, and gradients
MEMORY_BASE = 1.5 * GIB  # CUDA context, kernels, network and optimiser


@dataclass(frozen=True)
class Check:
    """One line of the check before submission. ``level``: ok, info, warning or error; ``field`` names an option."""

    level: Literal["ok", "info", "warning", "error"]
    text: str
    field: str = ""


@dataclass(frozen=True)
class Machine:
    """Figures of this machine for the checks: memory of each GPU (bytes total, bytes free), CPU cores."""

    gpus: tuple[tuple[int, int], ...] = ()
    cores: int = os.cpu_count() or 1

    @classmethod
    def of(cls, cards: Iterable[Gpu]) -> Machine:
        """This machine with these GPUs."""
        return cls(tuple((card.memory_total, card.memory_total - card.memory_used) for card in cards))


def checks(
    job_type: str, values: dict[str, Any], root: Path, machine: Machine, rate: float | None = None
) -> list[Check]:
    """Checks for a job of ``job_type`` with ``values`` in project ``root``.

    ``rate`` is the images per second that an earlier Train job here reached, if any did.
    """
    source = root / str(values.get("source_dir") or ".")
    found: list[Check] = []
    if job_type == "preprocess":
        found = _preprocess(values, source, root)
    elif job_type == "train":
        found = _train(values, source, machine, rate)
    elif job_type == "simulate":
        box, count = _number(values.get("box"), 64), _number(values.get("particles"), 0)
        found = [Check("info", f"{count:,.0f} images of {box:.0f} px"), *_disk(count * box * box * 4, root)]
    elif job_type in ("analyze", "decode"):
        found = _volumes(job_type, values, source, root)
    if not any(check.text.startswith("Disk") for check in found):
        found += _disk(0, root)
    return found


def last_rate(project: Project) -> float | None:
    """Images per second that the newest finished Train job reached, or None."""
    for info in reversed(project.jobs()):
        if info.job_type == "train" and info.status.state is State.SUCCEEDED:
            for event in reversed(project.job(info.name).last_events()):
                rate = (event.get("values") or {}).get("images_per_second")
                if rate:
                    return float(rate)
    return None


def _number(value: Any, default: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return default


def _preprocess(values: dict[str, Any], source: Path, root: Path) -> list[Check]:
    found: list[Check] = []
    star = source / str(values.get("star_file") or "")
    count, box = 0, 0
    if star.is_file():
        try:
            count, box = particles(values, source)
        except InputError as error:
            return [Check("error", str(error), "star_file")]
        found.append(Check("ok", f"{count:,} particles" + (f" of {box} px" if box else "")))
    target = int(_number(values.get("downsample_size"), min(DEFAULT_BOX, box or DEFAULT_BOX)))
    if box and target > box:
        found.append(Check("error", f"The images have {box} px only", "downsample_size"))
    if count:
        found += _disk(count * target * target * (2 if values.get("float16") else 4), root)
    level = values.get("map_thres")
    path = source / str(values.get("consensus_map") or "")
    if path.is_file():
        try:
            header = read_header(path)
            if level not in (None, "", "auto"):
                found.append(_gaussians(path, float(level), values, header.shape[0]))
            else:
                found.append(Check("info", f"Consensus map of {header.shape[0]} voxels; its level is found by itself"))
        except InputError as error:
            found.append(Check("error", str(error), "consensus_map"))
        except ValueError:
            pass
    return found


def _gaussians(path: Path, level: float, values: dict[str, Any], box: int) -> Check:
    inside = voxels_above(path, level, path.stat().st_mtime)
    step = int(_number(values.get("sample_interval"), 2 if box > 256 else 1))
    count, most = inside // step**3, int(_number(values.get("max_gaussians"), 20000))
    if count == 0:
        return Check("error", f"No voxel of the map is above {level:g}: take a lower threshold", "map_thres")
    if count < 200:
        return Check("warning", f"Only about {count} Gaussians: the threshold is high", "map_thres")
    if count > most:
        return Check("warning", f"About {count:,} Gaussians; only {most:,} are kept", "map_thres")
    return Check("ok", f"About {count:,} Gaussians")


def _train(values: dict[str, Any], source: Path, machine: Machine, rate: float | None) -> list[Check]:
    found: list[Check] = []
    count, box = 0, 0
    stack = _first_file(source / str(values.get("particle_name") or "img_stack"))
    if stack is not None:
        try:
            count, box, _ = read_header(stack).shape
            found.append(Check("ok", f"{count:,} particles of {box} px"))
        except InputError as error:
            found.append(Check("error", str(error), "particle_name"))
    gaussians = ply_count(source / str(values.get("point") or ""))
    if gaussians:
        found.append(Check("ok", f"{gaussians:,} Gaussians"))
    if not (count and gaussians):
        return found
    batch, epochs = _number(values.get("batch"), 32), _number(values.get("epoch"), 20)
    if batch > count:
        found.append(Check("warning", f"A batch of {batch:.0f} is more than all {count:,} particles", "batch"))
    on_gpu = bool(machine.gpus) and values.get("device") != "cpu"
    if on_gpu:
        found.append(_memory(batch, gaussians, count * box * box * 4, machine, values))
    gpus = max(len([g for g in str(values.get("gpus") or "").split(",") if g]), 1) if on_gpu else 1
    flops = GPU_FLOPS * gpus if on_gpu else CPU_CORE_FLOPS * machine.cores
    guess = rate or flops / (FLOP_PER_GAUSSIAN_IMAGE * gaussians)
    seconds = epochs * count / max(guess, 1e-6)
    basis = "at the speed of the last Train job here" if rate else "a rough guess before the first run"
    level: Literal["info", "warning"] = "warning" if seconds > 7 * 86400 else "info"
    found.append(Check(level, f"About {seconds_text(max(seconds, 1))} for {epochs:.0f} epochs ({basis})"))
    if values.get("device") == "cuda" and not machine.gpus:
        found.append(Check("warning", "No CUDA GPU is seen on this computer", "device"))
    return found


def _memory(batch: float, gaussians: int, stack: int, machine: Machine, values: dict[str, Any]) -> Check:
    scale = 2 if values.get("precision") == "float32" else 1
    needed = MEMORY_BASE + batch * gaussians * BYTES_PER_GAUSSIAN_IMAGE * scale
    total, free = max(machine.gpus, key=lambda g: g[1])
    if needed > total:
        fits = int((total - MEMORY_BASE) * 0.9 / (gaussians * BYTES_PER_GAUSSIAN_IMAGE * scale))
        return Check(
            "error",
            f"Needs about {needed / GIB:.0f} GiB of GPU memory, the GPU has {total / GIB:.0f}: "
            f"a batch of {max(fits, 1)} would fit",
            "batch",
        )
    if needed > free:
        return Check(
            "warning", f"Needs about {needed / GIB:.1f} GiB of GPU memory, {free / GIB:.1f} are free now", "batch"
        )
    more = " and the images fit too" if needed + stack < 0.9 * free else ""
    return Check("ok", f"About {needed / GIB:.1f} of {total / GIB:.0f} GiB GPU memory{more}")


def _volumes(job_type: str, values: dict[str, Any], source: Path, root: Path) -> list[Check]:
    found = []
    gaussians = ply_count(source / str(values.get("gaussians") or ""))
    if gaussians:
        found.append(Check("ok", f"{gaussians:,} Gaussians"))
    box = _number(values.get("box"), DEFAULT_BOX)
    if job_type == "analyze":
        count = _number(values.get("nclass"), 10) + _number(values.get("components"), 3) * _number(
            values.get("trajectory_points"), 10
        )
        found.append(Check("info", f"{count:.0f} volumes"))
        found += _disk(count * box**3 * 4, root)
    return found


def _disk(needed: float, root: Path) -> list[Check]:
    try:
        usage = shutil.disk_usage(root)
    except OSError:
        return []
    left = usage.free - needed
    text = (
        f"Disk: needs about {bytes_text(needed)}, {bytes_text(usage.free)} free"
        if needed
        else (f"Disk: {bytes_text(usage.free)} free")
    )
    if left < 0:
        return [Check("error", f"{text}: free some space, or make the job smaller")]
    if left < DISK_RESERVE * usage.total:
        return [Check("warning", f"{text}: the disk is filling up")]
    return [Check("ok", text)]


def disk_warning(free: int, total: int) -> str:
    """A sentence when a disk is about to fill, or ""."""
    if total and free < max(DISK_RESERVE * total, 2e9):
        left = f"Only {bytes_text(free)} of {bytes_text(total)} left on this disk."
        return f"{left} Clean up finished jobs, or empty the trash."
    return ""


def _first_file(path: Path) -> Path | None:
    return next((p for p in (path, *(path.with_name(path.name + e) for e in (".mrcs", ".mrc"))) if p.is_file()), None)


def particles(values: dict[str, Any], source: Path) -> tuple[int, int]:
    """Number of particles and their largest box (px), read as Preprocess will: with poses, CTF and images.

    Raises InputError as ``read_particles``.
    """
    star = source / str(values["star_file"])
    data_dir = source / str(values["data_dir"]) if values.get("data_dir") else None
    passthrough = tuple(source / str(path) for path in values.get("passthrough") or ())
    names = {"apix": "pixel_size_angstrom", "voltage": "voltage_kv", "cs": "cs_mm"}
    names["amplitude_contrast"] = "amplitude_contrast"
    constants = tuple((ours, float(values[name])) for name, ours in names.items() if values.get(name) is not None)
    return _particles(star, star.stat().st_mtime, data_dir, source, passthrough, constants)


@lru_cache(maxsize=16)
def _particles(
    star: Path,
    changed: float,
    data_dir: Path | None,
    source: Path,
    passthrough: tuple[Path, ...],
    constants: tuple[tuple[str, float], ...],
) -> tuple[int, int]:
    from gaussianem_core.io.particle_table import read_particles

    given: dict[str, Any] = dict(constants)
    table = read_particles(star, data_dir, source, passthrough, **given)
    return len(table), int(table.box_size.max())


def ply_count(path: Path) -> int:
    """Number of vertices in a PLY file's header; 0 if it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return 0
    for line in head.split(b"\n"):
        if line.startswith(b"element vertex"):
            try:
                return int(line.split()[2])
            except (IndexError, ValueError):
                return 0
    return 0


@lru_cache(maxsize=32)
def voxels_above(path: Path, level: float, changed: float) -> int:
    """Number of voxels of a map above ``level``, read in slabs. Raises InputError for a file that is no map.

    ``changed``: the file's time, so that a changed file is read again.
    """
    header = read_header(path)
    values = np.memmap(path, header.dtype, "r", header.offset, header.shape)
    return int(sum(np.count_nonzero(slab > level) for slab in values))
