"""A small simulated dataset, as RELION would have left it, and the command that prepares it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gaussianem_core.cli import main

BOX, PIXEL, COUNT = 32, 4.0, 40
RESULTS = (
    "img_stack.mrcs",
    "poses.npy",
    "ctf.npy",
    "point_cloud.ply",
    "cfg.json",
    "particles.star",
    "consensus_map.mrc",
)
NETWORK = (
    "--qdim",
    "16",
    "--qlayers",
    "1",
    "--zdim",
    "2",
    "--gaussian_kdim",
    "16",
    "--gaussian_klayers",
    "1",
    "--gaussian_embedding_dim",
    "8",
    "--feature_kdim",
    "16",
    "--feature_klayers",
    "1",
    "--feature_dim",
    "16",
)


def write_molecule(path: Path, frames: int = 3) -> Path:
    """A lopsided body of 60 points with an arm of 20 that swings through ``frames``."""
    generator = np.random.default_rng(1)
    body = generator.normal(size=(60, 3)) * [14, 9, 7] + [3, -4, 2]
    arm = generator.normal(size=(20, 3)) * 3
    places = [[0, 24 * np.cos(turn), 24 * np.sin(turn)] for turn in np.linspace(-0.6, 0.6, frames)]
    xyz = np.stack([np.concatenate([body, arm + place]) for place in places]).astype(np.float32)
    np.savez(path, xyz=xyz, weight=np.ones(80, np.float32), resid=np.arange(80), arm=np.arange(80) >= 60)
    return path


def simulate(
    folder: Path, *more: str, particles: int = COUNT, box: int = BOX, snr: float = 1.0, frames: int = 3
) -> Path:
    """particles.star, particles.mrcs, consensus.mrc and truth.npz in ``folder``; any box spans 128 A."""
    folder.mkdir(parents=True, exist_ok=True)
    model = write_molecule(folder / "molecule.npz", frames)
    words = ["--particles", str(particles), "--box", str(box), "--apix", str(BOX * PIXEL / box), "--snr", str(snr)]
    assert main(["simulate", "--model", str(model), "--job_dir", str(folder), "--device", "cpu", *words, *more]) == 0
    return folder


def preprocess(source: Path, out: Path, *more: str) -> int:
    """Prepare ``source``; no consensus fit unless ``more`` says so. Returns the exit code."""
    given = {"--star_file": "particles.star", "--consensus_map": "consensus.mrc", "--device": "cpu", "--epoch": "0"}
    for option in more:
        given.pop(option, None)
    words = [word for pair in given.items() for word in pair]
    return main(["preprocess", "-s", str(source), "--job_dir", str(out), *words, *NETWORK, *more])
