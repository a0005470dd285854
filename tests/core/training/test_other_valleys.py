"""Particles whose latent is stuck start again from that of another: the choice, and what nuisances make good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from gaussianem_core.commands import train as train_command
from gaussianem_core.imaging.fourier import half_plane_weight
from gaussianem_core.job.events import NullLog
from gaussianem_core.options import TrainOptions
from gaussianem_core.simulation.ground_truth import load_truth
from gaussianem_core.simulation.latent_scores import motion_values, neighbour_r2
from gaussianem_core.training.latent_posterior import flat
from gaussianem_core.training.other_valleys import Profile, better_starts
from gaussianem_core.training.problem import load_problem, resolve_stack
from gaussianem_core.training.recipe import choose_recipe

IMAGES, BOX, MODELS, NUISANCES = 3, 8, 5, 7


def test_nuisances_make_good_what_they_can() -> None:
    """Against the minimum of a quadratic that torch's least squares finds."""
    generator = torch.Generator().manual_seed(0)

    def spectra(*sizes: int) -> torch.Tensor:
        return torch.fft.rfft2(torch.randn(*sizes, BOX, BOX, generator=generator, dtype=torch.float64))

    image, made, derivatives = spectra(IMAGES), spectra(IMAGES, MODELS), spectra(IMAGES, NUISANCES)
    transfer = torch.rand(IMAGES, BOX, BOX // 2 + 1, generator=generator, dtype=torch.float64)
    root = half_plane_weight(BOX, torch.device("cpu")).double().sqrt()
    v = torch.randn(IMAGES, NUISANCES, generator=generator, dtype=torch.float64)
    jacobian = flat(0.1 * derivatives * root)
    energies, best = Profile.of(image, transfer, root, jacobian, v).energies(made)
    for i in range(IMAGES):
        for c in range(MODELS):
            r = flat(((made[i, c] * transfer[i] - image[i]) * root)[None])[0]
            # |r + J (w - v)|^2 + |w|^2 is one least-squares problem.
            matrix = torch.cat([jacobian[i].T, torch.eye(NUISANCES, dtype=torch.float64)])
            wanted = torch.cat([jacobian[i].T @ v[i] - r, torch.zeros(NUISANCES, dtype=torch.float64)])
            w = torch.linalg.lstsq(matrix, wanted[:, None]).solution[:, 0]
            torch.testing.assert_close(best[i, c], w)
            torch.testing.assert_close(energies[i, c], 0.5 * (matrix @ w - wanted).square().sum())


def test_particles_in_the_wrong_valley_come_back(moving: Path, tmp_path: Path) -> None:
    """Latents that are exchanged among half of the particles say nothing of their motion, until others are tried."""
    options = TrainOptions(source_dir=str(moving / "pre"), device="cpu", batch=20, epoch=2)
    log = NullLog(tmp_path)
    problem = load_problem(options, torch.device("cpu"), log, resolve_stack(options))
    recipe = replace(choose_recipe(options), held=("out of plane", "in plane", "shift", "contrast", "defocus"))
    trainer = train_command.begin(problem, recipe, options, log)
    truth = load_truth(moving / "sim" / "truth.npz")
    (motion,) = motion_values(truth).values()
    used = trainer.active.numpy()

    def told(values: torch.Tensor) -> float:
        return neighbour_r2(values[:, : len(used)].numpy()[:, used], motion)

    values = trainer.table.values
    assert told(values) > 0.5
    wrong = values.clone()
    half = torch.arange(0, len(values), 2)
    wrong[half] = values[half[torch.randperm(len(half), generator=torch.Generator().manual_seed(1))]]
    found, _ = better_starts(trainer, wrong, trainer.corrections, log)
    assert told(wrong) < 0.3 < told(found)
    # Who knows the best of all latents that are tried stays there.
    again, _ = better_starts(trainer, found, trainer.corrections, log)
    torch.testing.assert_close(again, found)
