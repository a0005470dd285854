"""A small simulated dataset, as RELION would have left it, and the command that prepares it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gaussianem_core.cli import main
from gaussianem_core.training import linear_fit, teaching

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


def hasten(patch: pytest.MonkeyPatch) -> None:
    """Stages before and after the training's epochs take as little as possible, where a test asks not how good they
    are. So little shows no motion, and without one there would be no latents: each component counts as real."""
    for module, values in (
        (teaching, {"ENCODER_EPOCHS": 1, "ENCODER_STEPS": 1, "DECODER_STEPS": 20}),
        (
            linear_fit,
            {"EPOCHS": (2, 2), "POSE_PASSES": 1, "NULL_PASSES": 1, "ALONE_EPOCHS": (1, 1), "ALL_EPOCHS": (1, 1)},
        ),
        (linear_fit, {"ODDS": 1e-300, "ERRORS": -1e9}),
    ):
        for name, value in values.items():
            patch.setattr(module, name, value)


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
