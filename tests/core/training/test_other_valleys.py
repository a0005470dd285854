"""Particles whose latent is stuck start again from that of another: the choice, and what nuisances make good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussianem_core.commands import train as train_command
from gaussianem_core.imaging.fourier import half_plane_weight
from gaussianem_core.job.events import NullLog
from gaussianem_core.options import TrainOptions
from gaussianem_core.simulation.ground_truth import load_truth
from gaussianem_core.simulation.latent_scores import motion_values, neighbour_r2
from gaussianem_core.training import linear_fit, nuisances
from gaussianem_core.training.grouping import Grouping
from gaussianem_core.training.joint_posterior import by_particle, quadratic
from gaussianem_core.training.latent_posterior import flat
from gaussianem_core.training.mixture_prior import standard_normal, summary
from gaussianem_core.training.other_valleys import better_starts
from gaussianem_core.training.problem import load_problem, resolve_stack
from gaussianem_core.training.profile import Profile, bent
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


def test_particles_in_the_wrong_valley_come_back(moving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents that are exchanged among half of the particles say nothing of their motion, until others are tried."""
    for name, few in {"EPOCHS": (4, 8), "POSE_PASSES": 1, "NULL_PASSES": 1, "ALONE_EPOCHS": (1, 1)}.items():
        monkeypatch.setattr(linear_fit, name, few)  # a plain motion is found soon
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


@pytest.mark.parametrize("images", [1, 3])
def test_a_piece_that_is_absent_is_not_filled_in(images: int) -> None:
    """Of a density that the latent turns off, exp(z) at z = -6 is nothing and has no slope: the quadratic there leaves
    the particle to the population, about 0, until it was looked at in that place."""
    shown = torch.linspace(-1, 1, 50).expand(images, 1, 50)  # of the piece at density 1
    noise = 0.3

    def energy(z: torch.Tensor) -> torch.Tensor:  # of images without the piece
        return 0.5 * (shown[:, 0] * z.exp() / noise).square().sum(-1)

    group = Grouping.of(np.zeros(images, dtype=np.int64))
    z, prior = torch.full((images, 1), -6.0), standard_normal(1, torch.device("cpu"))
    jacobian = torch.nn.functional.pad(shown * z[..., None].exp() / noise, (0, 0, nuisances.COUNT, 0))
    v = torch.nn.functional.pad(z, (nuisances.COUNT, 0))
    first = quadratic(jacobian, jacobian[:, -1], v)  # the residual: what little of the piece is left
    found = first
    means = []
    for _ in range(3):
        ahead = group.images(summary(prior, by_particle(found, group))[0])
        means.append(float(ahead[0]))
        rise = energy(ahead) - energy(z)
        found = bent(found, z, ahead, rise, group)
        said = by_particle(found, group)
        # The value there is now that of the images, or lower where they are likelier than was said.
        place = ahead[:1] - z[:1]
        told = (0.5 * said.information[:, 0] * (ahead[:1] ** 2 - z[:1] ** 2) - said.linear * place)[0, 0]
        assert float(told) >= float(rise.sum()) - 1e-3
    assert means[0] > -0.1 and means[-1] < -1.5
    torch.testing.assert_close(found.information[:, :-1, :-1], first.information[:, :-1, :-1])
    assert bent(first, z, ahead, torch.full((images,), -1.0), group).information.equal(first.information)
