"""The bound: what an observer who knows every true map, pose and CTF reads from each single image.

``python tests/benchmarks/observer.py SIMULATION CTF`` takes a simulation's directory (of ``gaussianem simulate``) and
the ctf.npy of its preparation without cropping (used where the truth tells no CTFs). Some of the particles get the
posterior over all true states, from their own image and the noise it has. Printed are the latent error of the
posterior means, their mean standard deviation, the R2 of each motion, and how often the occupancy is right. No method
that must find maps and states from the same images can do better.

Where the particles file has errors, the bound of the poses is told as well: the width of the posterior of an
observer who knows the state and the map, and the size of the errors (Cramer and Rao, with a Gaussian prior).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from gaussianem_core.imaging.ctf import load_ctf
from gaussianem_core.imaging.fourier import shells
from gaussianem_core.io.image_stack import ImageStack
from gaussianem_core.runtime.device import choose_device
from gaussianem_core.simulation.ground_truth import Truth, load_truth
from gaussianem_core.simulation.latent_scores import NEIGHBOURS, latent_error, motion_values, roc_area
from gaussianem_core.simulation.pose_scores import errors
from gaussianem_core.simulation.rendering import clean_images

RENDERED_AT_ONCE = 200
STEP_DEGREES, STEP_PIXELS = 0.2, 0.05
"""Steps of the derivatives of an image by its pose."""


def whiten(images: torch.Tensor, truth: Truth) -> torch.Tensor:  # (B, D, D) -> (B, D, D)
    """Images in which the simulation's noise is white and of unit variance."""
    if truth.noise_power is None or not np.ptp(truth.noise_power):
        return images
    box = images.shape[-1]
    power = torch.as_tensor(truth.noise_power, device=images.device)[shells(box, images.device)]
    return torch.fft.irfft2(torch.fft.rfft2(images) / power.sqrt(), s=(box, box))


def posteriors(
    truth: Truth, transfer: torch.Tensor, images: torch.Tensor, rows: np.ndarray, frames: np.ndarray
) -> np.ndarray:  # (N, 9), (B, D, D), (B,), (F,) or (F, M) -> (B, 2 or 1, F)
    """Posterior over composition (absent, present; one row where nothing is ever absent) and frame, priors equal."""
    assert truth.present is not None and truth.rotations is not None and truth.shifts is not None
    presence = np.array([False, True] if 0 < truth.present.mean() < 1 else [True])
    count = len(presence) * len(frames)
    states = np.repeat(presence, len(frames)), np.concatenate([frames] * len(presence)).astype(np.int32)
    contrast = np.ones(len(truth.rotations)) if truth.contrast is None else truth.contrast
    device, found = images.device, []
    for image, row in zip(whiten(images, truth), rows):
        one = replace(
            truth,
            present=states[0],
            frame=states[1],
            rotations=np.repeat(truth.rotations[row : row + 1], count, axis=0),
            shifts=np.repeat(truth.shifts[row : row + 1], count, axis=0),
        )
        optics = transfer[row : row + 1].expand(count, -1)
        energy = [
            0.5
            * (whiten(float(contrast[row]) * clean_images(one, optics, part), truth) - image)
            .square()
            .sum((1, 2))
            .double()
            for part in torch.arange(count, device=device).split(RENDERED_AT_ONCE)
        ]
        found.append(torch.softmax(-torch.cat(energy), 0).view(len(presence), len(frames)).cpu().numpy())
    return np.stack(found)


def pose_widths(truth: Truth, transfer: torch.Tensor, rows: np.ndarray) -> dict[str, float]:
    """Rms error of rotation (degrees) and shift (pixels) that is left when state and map are known.

    From the Fisher information of the whitened images and a Gaussian prior as wide as the file's own errors.
    """
    assert truth.rotations is not None and truth.shifts is not None
    assert truth.given_rotations is not None and truth.given_shifts is not None
    wrong = errors(truth, truth.given_rotations, truth.given_shifts, None)
    prior = np.array([wrong["rotation_deg"] / np.sqrt(3)] * 3 + [wrong["shift_px"]] * 2)
    if prior.min() < 1e-3:
        return {}
    device, contrast = transfer.device, np.ones(len(truth.rotations)) if truth.contrast is None else truth.contrast
    factor = torch.as_tensor(contrast[rows], device=device).float()[:, None, None]
    index = torch.as_tensor(rows, device=device)
    derivatives = []
    for axis in range(5):
        ends = []
        for sign in (-1, 1):
            rotations, shifts = truth.rotations.copy(), truth.shifts.copy()
            if axis < 3:
                turn = Rotation.from_rotvec(sign * STEP_DEGREES * np.eye(3)[axis], degrees=True).as_matrix()
                rotations = (turn @ rotations).astype(np.float32)
            else:
                shifts[:, axis - 3] += sign * STEP_PIXELS
            moved = replace(truth, rotations=rotations, shifts=shifts)
            parts = [clean_images(moved, transfer, part) for part in index.split(RENDERED_AT_ONCE)]
            ends.append(whiten(factor * torch.cat(parts), truth))
        derivatives.append((ends[1] - ends[0]) / (2 * (STEP_DEGREES if axis < 3 else STEP_PIXELS)))
    jacobian = torch.stack(derivatives, 1).flatten(2).double()
    information = jacobian @ jacobian.transpose(1, 2) + torch.diag(torch.as_tensor(prior**-2, device=device))
    variance = torch.linalg.inv(information).diagonal(dim1=1, dim2=2).mean(0).cpu().numpy()
    return {"rotation_deg": float(np.sqrt(variance[:3].sum())), "shift_px": float(np.sqrt(variance[3:].mean()))}


def values_by_frame(truth: Truth, frames: np.ndarray) -> dict[str, np.ndarray]:  # (F,) or (F, M) -> name -> (F, k)
    """What each motion measures in the given frames, as the particles that stood in them tell."""
    assert truth.frame is not None
    known = truth.frame.reshape(len(truth.frame), -1)
    asked, found = frames.reshape(len(frames), -1), {}
    for number, (name, values) in enumerate(motion_values(truth).items()):
        column = min(number, known.shape[1] - 1)
        there = np.isfinite(values).all(axis=1)
        seen, first = np.unique(known[there, column], return_index=True)
        table = values[there][first]
        found[name] = np.stack([np.interp(asked[:, column], seen, axis) for axis in table.T], axis=1)
    return found


@torch.no_grad()
def observe(
    folder: Path, ctf: Path, count: int, device: torch.device, seed: int = 0, stride: int = 1
) -> dict[str, float]:
    """The figures for ``count`` particles of the simulation in ``folder``, every ``stride``-th state of the truth."""
    truth = load_truth(folder / "truth.npz")
    assert truth.state is not None and truth.positions is not None and truth.present is not None
    rows = np.random.default_rng(seed).permutation(len(truth.state))
    rows = np.sort(rows[truth.real[rows]][:count])
    images = torch.from_numpy(ImageStack.from_file(folder / "particles.mrcs").read(rows)).to(device)
    transfer = torch.from_numpy(load_ctf(ctf) if truth.ctf is None else truth.ctf).float().to(device)
    single = np.arange(0, len(truth.positions), stride)
    motions = truth.state.reshape(len(truth.state), -1).shape[1]
    frames = single if motions == 1 else np.array(list(itertools.product(single, repeat=motions)))
    posterior = posteriors(truth, transfer, images, rows, frames)
    by_state = posterior.sum(1)
    figures = {"particles": float(len(rows))}
    if motions == 1 and np.ptp(truth.state) > 0:
        figures |= one_motion(truth, rows, by_state, frames, seed)
    true = motion_values(truth)
    for name, values in values_by_frame(truth, frames).items():
        there = np.isfinite(true[name][rows]).all(axis=1)
        missed = (true[name][rows] - by_state @ values)[there]
        spread = true[name][rows][there] - true[name][rows][there].mean(axis=0)
        figures[f"motion_r2_{name}"] = float(1 - (missed**2).sum() / (spread**2).sum())
    if posterior.shape[1] == 2:
        there = posterior.sum(2)[:, 1]
        figures["occupancy_accuracy"] = float(((there > 0.5) == truth.present[rows]).mean())
        if 0 < truth.present[rows].mean() < 1:
            figures["occupancy_roc"] = roc_area(there, truth.present[rows])
    if truth.given_rotations is not None:
        figures |= pose_widths(truth, transfer, rows)
    return figures


def one_motion(
    truth: Truth, rows: np.ndarray, by_state: np.ndarray, frames: np.ndarray, seed: int
) -> dict[str, float]:  # (B,), (B, F), (F,)
    """Latent error of the posterior means of the state, and the posterior's mean standard deviation."""
    assert truth.state is not None and truth.positions is not None
    states = frames / (len(truth.positions) - (0 if truth.periodic else 1))
    # Where state 1 is state 0 again, states are places on a circle.
    turn = 2 * np.pi * states
    places = np.stack([np.cos(turn), np.sin(turn)], axis=1) if truth.periodic else states[:, None]
    mean = by_state @ places
    width = np.sqrt(np.maximum((by_state @ places**2 - mean**2).sum(1), 0))
    neighbours = max(5, round(NEIGHBOURS * len(rows) / len(truth.state)))
    generator = np.random.default_rng(seed)
    error = latent_error(mean, truth.state[rows], truth.periodic, generator, neighbours)
    return {"latent_error": error, "posterior_width": float(width.mean())}


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
