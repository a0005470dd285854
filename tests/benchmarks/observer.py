"""The bound: what an observer who knows every true map, pose and CTF reads from each single image.

``python tests/benchmarks/observer.py SIMULATION CTF`` takes a simulation's directory (of ``gaussianem simulate``) and
the ctf.npy of its preparation without cropping. Some of the particles get the posterior over all true states, from
their own image and its unit white noise. Printed are the latent error of the posterior means, their mean standard
deviation, and how often the occupancy is right. No method that must find maps and states from the same images can do
better.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gaussianem_core.imaging.ctf import load_ctf
from gaussianem_core.io.image_stack import ImageStack
from gaussianem_core.runtime.device import choose_device
from gaussianem_core.simulation.ground_truth import Truth, load_truth
from gaussianem_core.simulation.latent_scores import NEIGHBOURS, latent_error
from gaussianem_core.simulation.rendering import clean_images

RENDERED_AT_ONCE = 200


@torch.no_grad()
def posteriors(
    truth: Truth, transfer: torch.Tensor, images: torch.Tensor, rows: np.ndarray, frames: np.ndarray
) -> np.ndarray:  # (N, 9), (B, D, D), (B,), (F,) -> (B, 2 or 1, F)
    """Posterior over composition (absent, present; one row where nothing is ever absent) and frame, priors equal."""
    assert truth.present is not None and truth.rotations is not None and truth.shifts is not None
    presence = np.array([False, True] if 0 < truth.present.mean() < 1 else [True])
    states = np.repeat(presence, len(frames)), np.tile(frames, len(presence)).astype(np.int32)
    device, found = images.device, []
    for image, row in zip(images, rows):
        one = replace(
            truth,
            present=states[0],
            frame=states[1],
            rotations=np.repeat(truth.rotations[row : row + 1], len(states[1]), axis=0),
            shifts=np.repeat(truth.shifts[row : row + 1], len(states[1]), axis=0),
        )
        optics = transfer[row : row + 1].expand(len(states[1]), -1)
        energy = [
            0.5 * (clean_images(one, optics, part) - image).square().sum((1, 2)).double()
            for part in torch.arange(len(states[1]), device=device).split(RENDERED_AT_ONCE)
        ]
        found.append(torch.softmax(-torch.cat(energy), 0).view(len(presence), len(frames)).cpu().numpy())
    return np.stack(found)


def observe(
    folder: Path, ctf: Path, count: int, device: torch.device, seed: int = 0, stride: int = 1
) -> dict[str, float]:
    """The figures for ``count`` particles of the simulation in ``folder``, every ``stride``-th state of the truth."""
    truth = load_truth(folder / "truth.npz")
    assert truth.state is not None and truth.positions is not None and truth.present is not None
    rows = np.sort(np.random.default_rng(seed).permutation(len(truth.state))[:count])
    images = torch.from_numpy(ImageStack.from_file(folder / "particles.mrcs").read(rows)).to(device)
    transfer = torch.from_numpy(load_ctf(ctf)).float().to(device)
    frames = np.arange(0, len(truth.positions), stride)
    posterior = posteriors(truth, transfer, images, rows, frames)
    states = frames / (len(truth.positions) - (0 if truth.periodic else 1))
    by_state = posterior.sum(1)
    # Where state 1 is state 0 again, states are places on a circle.
    turn = 2 * np.pi * states
    places = np.stack([np.cos(turn), np.sin(turn)], axis=1) if truth.periodic else states[:, None]
    mean = by_state @ places
    width = np.sqrt(np.maximum((by_state @ places**2 - mean**2).sum(1), 0))
    neighbours = max(5, round(NEIGHBOURS * len(rows) / len(truth.state)))
    generator = np.random.default_rng(seed)
    error = latent_error(mean, truth.state[rows], truth.periodic, generator, neighbours)
    figures = {"particles": float(len(rows)), "latent_error": error, "posterior_width": float(width.mean())}
    if posterior.shape[1] == 2:
        said = posterior.sum(2)[:, 1] > 0.5
        figures["occupancy_accuracy"] = float((said == truth.present[rows]).mean())
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("simulation", type=Path)
    parser.add_argument("ctf", type=Path)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--stride", type=int, default=1, help="take every so-manieth state of the truth")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    given = parser.parse_args(argv)
    device = choose_device(given.device)
    print(json.dumps(observe(given.simulation, given.ctf, given.particles, device, stride=given.stride)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
