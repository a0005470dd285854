"""The bound: what an observer who knows every true map, pose and CTF reads from each single image.

``python tests/benchmarks/observer.py SIMULATION CTF`` takes a simulation's directory (of ``gaussianem simulate``) and
the ctf.npy of its preparation without cropping (used where the truth tells no CTFs). Some of the particles get the
posterior over all true states, from their own image and the noise it has. Printed are the latent error of the
posterior means, their mean standard deviation, the R2 of each motion, and how often the occupancy is right. No method
that must find maps and states from the same images can do better.

Where the particles file has errors, an observer who knows the maps but not the poses is asked as well: angles, shifts,
contrast and defocus of each image have a normal prior about what the file gives, as wide as its errors, and are
integrated out to first order (figures that end in ``_poses_unknown``). And the bound of the poses is told: the width of
the posterior of an observer who knows the state and the map (Cramer and Rao, with the same prior).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from gaussianem_core.imaging.ctf import load_ctf
from gaussianem_core.imaging.fourier import shells
from gaussianem_core.io.image_stack import ImageStack
from gaussianem_core.runtime.device import choose_device
from gaussianem_core.simulation.ground_truth import Truth, load_truth
from gaussianem_core.simulation.latent_scores import NEIGHBOURS, latent_error, motion_values, roc_area
from gaussianem_core.simulation.rendering import clean_images

RENDERED_AT_ONCE = 200
STEPS = (0.2, 0.2, 0.2, 0.05, 0.05, 20.0)
"""Of the derivatives of an image by its turn (degrees), shift (pixels) and defocus (Angstrom)."""
KINDS = (slice(0, 3), slice(3, 5), slice(5, 6), slice(6, 7))
"""Which of the numbers of :class:`Errors` share a width."""


def whiten(images: torch.Tensor, truth: Truth) -> torch.Tensor:  # (B, D, D) -> (B, D, D)
    """Images in which the simulation's noise is white and of unit variance."""
    if truth.noise_power is None or not np.ptp(truth.noise_power):
        return images
    box = images.shape[-1]
    power = torch.as_tensor(truth.noise_power, device=images.device)[shells(box, images.device)]
    return torch.fft.irfft2(torch.fft.rfft2(images) / power.sqrt(), s=(box, box))


class Errors(NamedTuple):
    """What B images say about 7 numbers that the particles file has wrong: turn (3, degrees), shift (2, pixels),
    contrast, and defocus (Angstrom). ``derivatives`` (B, 7, P), whitened images by each number at the truth; ``given``
    (B, 7), what the file says less the truth; ``widths`` (7,), rms of that over all particles."""

    derivatives: torch.Tensor
    given: torch.Tensor
    widths: torch.Tensor

    def covariances(self) -> torch.Tensor:  # (B, 7, 7)
        """Of the posteriors, where the state is known."""
        information = self.derivatives @ self.derivatives.mT + torch.diag(self.widths**-2)
        return torch.linalg.inv(information)

    def integrated(self, number: int, residual: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:  # (S, P)
        """Squared residuals (S,) of image ``number`` under S states, with what is wrong integrated out, up to a
        constant: the image is linear in these numbers, so that this is exact but for the derivatives, which are those
        in the true state."""
        jacobian = self.derivatives[number]
        rest = residual - self.given[number] @ jacobian
        pull = rest @ jacobian.T
        return rest.square().sum(1) - ((pull @ covariance[number]) * pull).sum(1)


def find_errors(truth: Truth, transfer: torch.Tensor, rows: np.ndarray) -> Errors | None:
    """The errors of the particles file and what images ``rows`` say about them; None where it has none."""
    assert truth.rotations is not None and truth.shifts is not None
    if truth.given_rotations is None or truth.given_shifts is None:
        return None
    count = len(truth.rotations)
    contrast = np.ones(count) if truth.contrast is None else truth.contrast
    given = np.zeros((count, 7))
    given[:, :3] = Rotation.from_matrix(
        np.einsum("nij,nkj->nik", truth.given_rotations.astype(float), truth.rotations.astype(float))
    ).as_rotvec(degrees=True)
    given[:, 3:5] = truth.given_shifts - truth.shifts
    given[:, 5] = 1 - contrast
    if truth.given_defocus_angstrom is not None and truth.ctf is not None:
        given[:, 6] = truth.given_defocus_angstrom - truth.ctf[:, 2:4].mean(axis=1)
    by_kind = np.sqrt([np.mean(given[truth.real][:, part] ** 2) for part in KINDS])
    if by_kind[:2].min() < 1e-3:
        return None
    widths = np.maximum(np.repeat(by_kind, [3, 2, 1, 1]), 1e-6)  # what is right stays right
    device, index = transfer.device, torch.as_tensor(rows, device=transfer.device)
    factor = torch.as_tensor(contrast[rows], device=device).float()[:, None, None]

    def images(moved: Truth, optics: torch.Tensor) -> torch.Tensor:
        parts = [clean_images(moved, optics, part) for part in index.split(RENDERED_AT_ONCE)]
        return whiten(torch.cat(parts), truth)

    derivatives = []
    for number, step in enumerate(STEPS):
        ends = []
        for sign in (-step, step):
            rotations, shifts, optics = truth.rotations.copy(), truth.shifts.copy(), transfer.clone()
            if number < 3:
                turn = Rotation.from_rotvec(sign * np.eye(3)[number], degrees=True).as_matrix()
                rotations = (turn @ rotations).astype(np.float32)
            elif number < 5:
                shifts[:, number - 3] += sign
            else:
                optics[:, 2:4] += sign
            ends.append(factor * images(replace(truth, rotations=rotations, shifts=shifts), optics))
        derivatives.append((ends[1] - ends[0]) / (2 * step))
    derivatives.insert(5, images(truth, transfer))  # by contrast
    return Errors(
        torch.stack(derivatives, 1).flatten(2).double(),
        torch.as_tensor(given[rows], device=device),
        torch.as_tensor(widths, device=device),
    )


class Posteriors(NamedTuple):
    """Of B images over composition (absent, present; one row where nothing is ever absent) and F frames, priors equal:
    ``known`` (B, 2 or 1, F), where poses, contrast and defocus are known; ``unknown``, where they are not, or None."""

    known: np.ndarray
    unknown: np.ndarray | None


def posteriors(
    truth: Truth,
    transfer: torch.Tensor,
    images: torch.Tensor,
    rows: np.ndarray,
    frames: np.ndarray,
    errors: Errors | None,
) -> Posteriors:  # (N, 9), (B, D, D), (B,), (F,) or (F, M)
    """What each image says about the state."""
    assert truth.present is not None and truth.rotations is not None and truth.shifts is not None
    presence = np.array([False, True] if 0 < truth.present.mean() < 1 else [True])
    count = len(presence) * len(frames)
    states = np.repeat(presence, len(frames)), np.concatenate([frames] * len(presence)).astype(np.int32)
    contrast = np.ones(len(truth.rotations)) if truth.contrast is None else truth.contrast
    covariance = None if errors is None else errors.covariances()
    device = images.device
    known, unknown = [], []

    def shares(energies: list[torch.Tensor]) -> np.ndarray:
        return torch.softmax(-0.5 * torch.cat(energies), 0).view(len(presence), len(frames)).cpu().numpy()

    for number, (image, row) in enumerate(zip(whiten(images, truth), rows)):
        one = replace(
            truth,
            present=states[0],
            frame=states[1],
            rotations=np.repeat(truth.rotations[row : row + 1], count, axis=0),
            shifts=np.repeat(truth.shifts[row : row + 1], count, axis=0),
        )
        optics = transfer[row : row + 1].expand(count, -1)
        plain, integrated = [], []
        for part in torch.arange(count, device=device).split(RENDERED_AT_ONCE):
            made = whiten(float(contrast[row]) * clean_images(one, optics, part), truth)
            residual = (image - made).flatten(1).double()
            plain.append(residual.square().sum(1))
            if errors is not None and covariance is not None:
                integrated.append(errors.integrated(number, residual, covariance))
        known.append(shares(plain))
        unknown.append(shares(integrated) if integrated else None)
    return Posteriors(np.stack(known), None if errors is None else np.stack(unknown))


def pose_widths(errors: Errors) -> dict[str, float]:
    """Rms error of rotation (degrees) and shift (pixels) that is left when state and map are known."""
    variance = errors.covariances().diagonal(dim1=1, dim2=2).mean(0).cpu().numpy()
    return {"rotation_deg": float(np.sqrt(variance[:3].sum())), "shift_px": float(np.sqrt(variance[3:5].mean()))}


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
    errors = find_errors(truth, transfer, rows)
    found = posteriors(truth, transfer, images, rows, frames, errors)
    figures = {"particles": float(len(rows))}
    if motions == 1 and np.ptp(truth.state) > 0:
        figures |= one_motion(truth, rows, found.known.sum(1), frames, seed)
    for name, posterior in found._asdict().items():
        if posterior is not None:
            ending = "" if name == "known" else "_poses_unknown"
            figures |= {key + ending: value for key, value in read(truth, rows, posterior, frames).items()}
    return figures if errors is None else figures | pose_widths(errors)


def read(truth: Truth, rows: np.ndarray, posterior: np.ndarray, frames: np.ndarray) -> dict[str, float]:
    """R2 of each motion by posterior means, and how well presence is told: (B,), (B, 2 or 1, F), (F,) or (F, M)."""
    assert truth.present is not None
    by_state, figures = posterior.sum(1), {}
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
