"""The state of a training: what is saved is what goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gaussianem_core.errors import InputError
from gaussianem_core.job.events import JobLog
from gaussianem_core.model.deformation import Deformed
from gaussianem_core.model.gauge import make_gauge
from gaussianem_core.options import TrainOptions
from gaussianem_core.training import noise_model, nuisances, objective
from gaussianem_core.training.corrections import Corrections
from gaussianem_core.training.junk import Junk
from gaussianem_core.training.mixture_prior import SAMPLES, Latents, standard_normal
from gaussianem_core.training.problem import load_problem, resolve_stack
from gaussianem_core.training.recipe import choose_recipe
from gaussianem_core.training.trainer import Trainer, new_forward_model


def make_trainer(folder: Path, log: JobLog, known: bool) -> Trainer:
    """A training of the default recipe, with made-up latents and nuisances where they are ``known``."""
    options = TrainOptions(source_dir=str(folder / "pre"), device="cpu", batch=20, epoch=3, precision="float32")
    problem = load_problem(options, torch.device("cpu"), log, resolve_stack(options))
    recipe = choose_recipe(options)
    forward = new_forward_model(problem, recipe, options)
    noise = noise_model.estimate(problem.feed, problem.device, options.seed)
    if not known:
        return Trainer(problem, recipe, options, forward, noise)
    generator = torch.Generator().manual_seed(5)
    count, zdim = problem.count, forward.zdim
    widths = nuisances.first_widths(("defocus",), problem.device)
    samples = torch.randn(SAMPLES, count, nuisances.COUNT, generator=generator) * widths
    junk = torch.rand(count, generator=generator)
    values = torch.randn(count, 2 * zdim, generator=generator) * 0.1
    drawn = torch.randn(SAMPLES, count, zdim, generator=generator)
    active = torch.arange(zdim) < 2
    latents = Latents(values, drawn * active, active, standard_normal(2, problem.device))
    found = Corrections(
        samples.mean(0), samples, widths, Junk(junk, torch.randn(count, generator=generator), junk.mean())
    )
    forward.gauge = make_gauge(problem.gaussians, torch.rand(len(problem.gaussians), generator=generator))
    return Trainer(problem, recipe, options, forward, noise, latents, found)


def test_a_restored_training_goes_on_bit_by_bit(moving: Path, tmp_path: Path) -> None:
    """With its latents, nuisances, gauge and anchor, from the middle of the epochs."""
    with JobLog(tmp_path / "log", ["test"], "0") as log:
        first = make_trainer(moving, log, known=True)
        first.run_epoch(log)
        path = tmp_path / "state.pt"
        torch.save(first.state(), path)
        again = make_trainer(moving, log, known=False)
        again.restore(torch.load(path, weights_only=True))
        for trainer in (first, again):
            trainer.run_epoch(log)
    for name, value in first.forward.state_dict().items():
        assert torch.equal(value, again.forward.state_dict()[name]), name
    for part in ("mean", "samples", "widths"):
        assert torch.equal(getattr(first.corrections, part), getattr(again.corrections, part))
    assert all(torch.equal(a, b) for a, b in zip(first.corrections.junk, again.corrections.junk))
    assert all(torch.equal(a, b) for a, b in zip(first.epoch_views, again.epoch_views))
    assert torch.equal(first.noise.power, again.noise.power) and torch.equal(first.anchor.middle, again.anchor.middle)


def test_an_epoch_renders_at_the_sampled_poses_and_junk_pulls_at_nothing(moving: Path, tmp_path: Path) -> None:
    with JobLog(tmp_path / "log", ["test"], "0") as log:
        trainer = make_trainer(moving, log, known=True)
        trainer.begin_epoch()
        wanted = nuisances.corrected(trainer.problem.views, trainer.corrections.samples[0])
        assert all(torch.equal(a, b) for a, b in zip(trainer.epoch_views, wanted))
        trainer.rates.copy_(trainer.steps.row(trainer.position)["rates"])
        rows = torch.arange(10)
        images, shell_weight = trainer.problem.feed.get(rows), trainer.noise.shell_weight(trainer.rate("band"))
        parameters = [p for p, _ in trainer.learnt]

        def pull(pictures: torch.Tensor) -> list[torch.Tensor]:
            row = trainer.entries(rows) | {"shell_weight": shell_weight}
            return objective.gradients(trainer.losses(trainer.see(pictures, row), row["z"]), parameters, trainer.device)

        trainer.image_weight[3] = 0.0
        before = pull(images)
        spoilt = images.clone()
        spoilt[3] *= 1e6
        assert all(torch.equal(a, b) for a, b in zip(before, pull(spoilt)))
        trainer.image_weight[3] = 1.0
        assert not all(torch.equal(a, b) for a, b in zip(before, pull(images)))


def test_densities_are_brought_to_a_mean_contrast_of_one(moving: Path, tmp_path: Path) -> None:
    with JobLog(tmp_path / "log", ["test"], "0") as log:
        trainer = make_trainer(moving, log, known=True)
        found = trainer.corrections
        brighter = found._replace(mean=found.mean + 0.2, samples=found.samples + 0.2)
        latents = Latents(trainer.table.values, trainer.samples, trainer.active, standard_normal(2, trainer.device))
        before = trainer.forward.gaussians.densities.detach().clone()
        real = 1 - found.junk.probability
        factor = float((real * (1 + brighter.mean[:, nuisances.CONTRAST])).sum() / real.sum())
        trainer.set_latents(latents, brighter)
    torch.testing.assert_close(trainer.forward.gaussians.densities, before * factor)
    contrast = 1 + trainer.corrections.mean[:, nuisances.CONTRAST]
    torch.testing.assert_close((real * contrast).sum() / real.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("lost", ["loss", "weights"])
def test_what_is_not_finite_ends_the_training(moving: Path, tmp_path: Path, lost: str) -> None:
    """Weights too: a relu that makes 0 of NaN keeps the loss finite."""
    with JobLog(tmp_path / "log", ["test"], "0") as log:
        trainer = make_trainer(moving, log, known=False)
        sums = trainer.sums.double().numpy() + 1.0
        trainer.report(log, sums, rate=1.0)
        if lost == "loss":
            sums[0] = np.inf
        else:
            next(iter(trainer.forward.parameters())).data.view(-1)[3] = torch.nan
        with pytest.raises(InputError, match=f"finite {lost}"):
            trainer.report(log, sums, rate=1.0)


def test_where_latents_change_nothing_no_decoder_is_asked(moving: Path, tmp_path: Path) -> None:
    """Its answer is known, and takes most of such a training's time on a CPU. The Gaussians and their gradients are
    those that it gives."""
    with JobLog(tmp_path / "log", ["test"], "0") as log:
        forward = make_trainer(moving, log, known=True).forward
    forward.leave_out(moves=False, changes=False)
    prepared = forward.network.prepare(torch.randn(3, forward.zdim), forward.embed())

    def with_gradients(found: Deformed) -> list[torch.Tensor]:
        values = [*found[:4], *([] if found.centre is None else [found.centre.positions, found.centre.raw_density])]
        total = sum((value * torch.arange(value.numel()).view_as(value)).sum() for value in values)
        return [*values, *torch.autograd.grad(total, [forward.positions, forward.raw_density])]

    for centre in (False, True):
        asked = forward.network.deform(forward.gaussians, prepared, gauge=forward.gauge, centre=centre)
        unasked = forward.deform_prepared(prepared._replace(decoder=None), centre)
        for found, wanted in zip(with_gradients(unasked), with_gradients(asked), strict=True):
            assert torch.equal(found, wanted)
