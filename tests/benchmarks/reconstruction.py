"""Speed and memory of reconstruction: rows of a table, to be run by hand, on a GPU or a CPU.

    python tests/benchmarks/reconstruction.py                 # 100,000 particles of box 256
    python tests/benchmarks/reconstruction.py --particles 2000 --box 64 --device cpu

The images are noise: what is measured does not depend on what they show. A stack of 2,000 is written once and listed as
often as it takes, so that the disk's cache serves the reading; the time to read 2,000 once is told apart. Motion undone
needs a trained model: see ``million.py``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from gaussianem_core.imaging.backprojection import accumulate, empty_sums
from gaussianem_core.imaging.pose import angles_from_rotations, random_rotations
from gaussianem_core.io.image_stack import ImageStack, StackWriter
from gaussianem_core.io.particle_rows import write_star

STORED = 2000


def write_data(folder: Path, particles: int, box: int, pixel: float) -> Path:
    """particles.star and particles.mrcs of noise."""
    generator = np.random.default_rng(0)
    stored = min(particles, STORED)
    with StackWriter(folder / "particles.mrcs", stored, box, pixel) as writer:
        for _ in range(0, stored, 500):
            writer.append(generator.standard_normal((min(500, stored), box, box), np.float32))
    angles = angles_from_rotations(random_rotations(particles, generator))
    defocus = generator.uniform(8000, 20000, particles)
    optics = {
        "rlnOpticsGroup": [1],
        "rlnVoltage": [300.0],
        "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1],
        "rlnImagePixelSize": [pixel],
        "rlnImageSize": [box],
        "rlnImageDimensionality": [2],
    }
    rows = {
        "rlnImageName": [f"{i % stored + 1:06d}@particles.mrcs" for i in range(particles)],
        **{name: angles[:, i] for i, name in enumerate(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"))},
        "rlnOriginXAngst": np.zeros(particles),
        "rlnOriginYAngst": np.zeros(particles),
        "rlnDefocusU": defocus,
        "rlnDefocusV": defocus,
        "rlnDefocusAngle": np.zeros(particles),
        "rlnOpticsGroup": np.ones(particles, int),
        "rlnRandomSubset": 1 + (np.arange(particles) % stored) % 2,
    }
    write_star(folder / "particles.star", {"optics": optics, "particles": rows})
    return folder / "particles.star"


def measure(name: str, words: list[str], out: Path) -> None:
    """Run one job in a process of its own and print a row."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "gaussianem_core", *words, "--job_dir", str(out)], check=False)
    seconds = time.monotonic() - began
    lines = (out / "events.jsonl").read_text().splitlines() if (out / "events.jsonl").exists() else []
    events = [json.loads(line) for line in lines]
    marks = [event["t"] for event in events if event["type"] == "progress" and event["stage"] == "images"]
    images = marks[-1] - marks[0] if len(marks) > 1 else float("nan")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(
        f"{name:<52} {seconds:8.1f} s   images {images:8.1f} s   memory so far {peak:6.2f} GiB   exit {done.returncode}"
    )


def kernel_speed(box: int, device: str) -> None:
    """Images a second into one set of sums."""
    count = 512
    images = torch.randn(count, box, box, device=device)
    rotations = torch.from_numpy(random_rotations(count, np.random.default_rng(1))).float().to(device)
    shifts, sums = torch.zeros(count, 2, device=device), empty_sums(box, device)
    accumulate(sums, images, rotations, shifts)
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.monotonic()
    for _ in range(4):
        accumulate(sums, images, rotations, shifts)
    if device == "cuda":
        torch.cuda.synchronize()
    print(f"{f'insertion alone, box {box}, {device}':<52} {4 * count / (time.monotonic() - began):8.0f} images/s")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--particles", type=int, default=100_000)
    parser.add_argument("--box", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    device = given.device
    print(torch.cuda.get_device_name() if device == "cuda" else "CPU", torch.get_num_threads(), "threads")
    kernel_speed(given.box, device)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        star = write_data(folder, given.particles, given.box, 1.2)
        with ImageStack.from_file(folder / "particles.mrcs") as stack:
            began = time.monotonic()
            for _ in stack.iter_batches(500):
                pass
            print(f"{f'reading {len(stack)} images of the stack':<52} {time.monotonic() - began:8.1f} s")
        base = ["reconstruct", "--star_file", str(star), "--device", device]
        few = folder / "few.npy"
        np.save(few, np.arange(given.particles // 10))
        tenth = [*base, "--no_local", "--select", str(few)]
        measure(f"{given.particles // 10:,} particles, box {given.box}", tenth, folder / "a")
        measure(f"{given.particles:,} particles, box {given.box}", [*base, "--no_local"], folder / "b")
        measure(f"{given.particles:,} particles, box {given.box}, local resolution", base, folder / "c")


if __name__ == "__main__":
    main()
