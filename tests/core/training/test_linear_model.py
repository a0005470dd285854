"""The linear model: finds the true latents and their number in noise, and teaches them to the decoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_data import preprocess, simulate

from gaussianem_core.job.events import JobLog
from gaussianem_core.options import TrainOptions
from gaussianem_core.runtime.streams import stream
from gaussianem_core.simulation import pose_scores
from gaussianem_core.simulation.ground_truth import Truth, load_truth
from gaussianem_core.simulation.latent_scores import roc_area
from gaussianem_core.training import (
    joint_posterior,
    linear_fit,
    linear_model,
    noise_model,
    nuisances,
    smooth_fields,
    teaching,
)
from gaussianem_core.training.forward_model import ForwardModel, Views
from gaussianem_core.training.image_feed import ImageFeed
from gaussianem_core.training.linear_fit import LinearFit
from gaussianem_core.training.noise_model import NoiseModel
from gaussianem_core.training.problem import Problem, load_problem, resolve_stack
from gaussianem_core.training.recipe import Recipe, choose_recipe
from gaussianem_core.training.trainer import Trainer, new_forward_model


def make_setting(folder: Path, log: JobLog) -> tuple[TrainOptions, Problem, Recipe, ForwardModel, NoiseModel]:
    options = TrainOptions(source_dir=str(folder / "pre"), device="cpu", batch=20, epoch=1, precision="float32")
    problem = load_problem(options, torch.device("cpu"), log, resolve_stack(options))
    recipe = choose_recipe(options)
    forward = new_forward_model(problem, recipe, options)
    return options, problem, recipe, forward, noise_model.estimate(problem.feed, problem.device, options.seed)


def make_trainer(folder: Path, log: JobLog, moves: bool = True) -> Trainer:
    options, problem, recipe, forward, noise = make_setting(folder, log)
    if not moves:
        forward.leave_out(moves=False, changes=True)
    return Trainer(problem, recipe, options, forward, noise)


def fit(folder: Path, log: JobLog) -> tuple[LinearFit, Views]:
    """The linear model of prepared data, and the views with what it corrected."""
    options, problem, recipe, forward, noise = make_setting(folder, log)
    linear = linear_fit.fit(problem, forward, noise, recipe.held, recipe.weigh_junk, options.seed, log)
    q = joint_posterior.posterior(linear.measured).mean[:, : nuisances.COUNT] * linear.widths
    return linear, nuisances.corrected(problem.views, q)


def explained(z: np.ndarray, state: np.ndarray) -> float:  # (N, K), (N,)
    """Share of the state's variance that a linear fit from the latents gives."""
    design = np.c_[z, np.ones(len(z))]
    rest = state - design @ np.linalg.lstsq(design, state, rcond=None)[0]
    return float(1 - rest.var() / state.var())


def pose_error(views: Views, truth: Truth) -> tuple[float, float]:
    """Degrees rms over all axes, pixels rms in each, without what is common to all particles."""
    found = pose_scores.errors(truth, views.rotations.numpy(), views.shifts.numpy(), None)
    return found["rotation_deg"], found["shift_px"]


def test_recovers_a_motion(moving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = load_truth(moving / "sim" / "truth.npz")
    assert truth.state is not None
    with JobLog(tmp_path / "log", ["test"], "0") as log:
        options, problem, recipe, forward, noise = make_setting(moving, log)
        before = noise.power.clone()
        gaps = follow_from_all(monkeypatch)
        linear = linear_fit.fit(problem, forward, noise, recipe.held, recipe.weigh_junk, options.seed, log)
        assert torch.equal(noise.power, before), "what was found is returned, nothing given is changed"
        assert gaps[1] < gaps[0], "once all is chosen, particles that were held out shape the fields too"
        used = linear.count
        active = torch.arange(forward.zdim) < used
        latents, found = joint_posterior.estimate(
            linear.measured, linear.widths, linear.junk, active, problem.group, 0, 0, log
        )
        mean, log_variance = latents.values.chunk(2, dim=1)
        z = mean.numpy()
        assert used and (z[:, used:] == 0).all() and (log_variance[:, used:] == 0).all()
        assert explained(z, truth.state) > 0.9
        # Poses that are exact stay so, to a tenth of what such an image tells of one, and hardly an image is junk.
        degrees, pixels = pose_error(nuisances.corrected(problem.views, found.mean), truth)
        assert degrees < 0.4 and pixels < 0.03
        assert (found.junk.probability > 0.5).sum() <= 2  # of 600
        # Widths are honest: the posterior explains how far the means scatter about the best curve, within a factor.
        assert 0.02 < log_variance[:, 0].exp().sqrt().mean() < 0.9
        # What the decoder learns from it: the same displacements; a network as small as this one needs more steps.
        monkeypatch.setattr(teaching, "DECODER_STEPS", 3 * teaching.DECODER_STEPS)
        trainer = Trainer(problem, recipe, options, forward, noise, latents, found)
        teaching.teach_decoder(trainer, linear.model.fields, log)
        with torch.no_grad():
            _, position = forward.network.decode(mean[:100], forward.embed())
            wanted = torch.einsum("bk,kmd->bmd", mean[:100, :used], linear.model.fields.all())
        error = (position - wanted[..., :3]).square().sum() / wanted[..., :3].square().sum()
        assert error < 0.2


def test_of_fine_images_few_shells_count_until_the_motion_is_found(
    moving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = load_truth(moving / "sim" / "truth.npz")
    assert truth.state is not None
    monkeypatch.setattr(linear_fit, "SHELLS", 12)  # of 16
    bands: list[float] = []
    visit = linear_fit.visit

    def watched(*given: Any, **named: Any) -> linear_model.Visit:
        if named.get("stage", "linear model") == "linear model":
            bands.append(named.get("band", 1.0))
        return visit(*given, **named)

    monkeypatch.setattr(linear_fit, "visit", watched)
    with JobLog(tmp_path / "log", ["test"], "0") as log:
        linear, views = fit(moving, log)
    assert (
        linear.count
        and explained(joint_posterior.posterior(linear.measured).mean[:, nuisances.COUNT :].numpy(), truth.state) > 0.9
    )
    degrees, pixels = pose_error(views, truth)
    assert degrees < 0.4 and pixels < 0.03
    assert (linear.junk.probability > 0.5).sum() <= 2  # of 600
    few = bands.count(12 / 32)
    assert bands == sorted(bands) and few >= 2 and bands[-1] == 1 and bands.count(1.0) >= 2


def test_measuring_does_not_depend_on_how_many_images_are_seen_at_once(
    moving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JobLog(tmp_path / "log", ["test"], "0") as log:
        _, problem, _, forward, noise = make_setting(moving, log)
        setting = linear_model.Setting(problem, forward, 0, True, log)
        fields = smooth_fields.new_fields(problem.gaussians, None, 2, forward.box, 0)
        model = linear_model.Model(fields, problem.gaussians, problem.gaussians).copy(2, fields.kept)
        state = linear_fit.first_state(problem, 2, nuisances.first_widths((), problem.device), noise.power)
        everyone = np.arange(setting.particles)
        found = []
        for images in (7, 100_000):
            monkeypatch.setattr(linear_model.Setting, "fits", images)
            assert setting.most == min(images, 600)
            found.append(linear_model.visit(setting, model, state, everyone, 0, 1, None))
    few, many = found
    torch.testing.assert_close(few.state.q, many.state.q, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(few.state.z, many.state.z, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(few.state.noise_power, many.state.noise_power, rtol=1e-4, atol=1e-6)


def test_noise_of_shells_beyond_the_band_stays_as_it_was(moving: Path, tmp_path: Path) -> None:
    """Of large images the first pass sees the lower shells alone. What it leaves out is not noiseless for the next."""
    box, count = 128, 24
    with JobLog(tmp_path / "log", ["test"], "0") as log:
        options, problem, recipe, _, _ = make_setting(moving, log)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(count, box, box, generator=generator)
        feed = ImageFeed(lambda rows: images[rows].numpy(), count, box, False, problem.device, "host", 1 << 30)
        few = problem.subset(np.arange(count))
        large = replace(few, configuration=replace(few.configuration, box=box), feed=feed)
        forward = new_forward_model(large, recipe, options)
        noise = noise_model.estimate(feed, problem.device, 0)
        setting = linear_model.Setting(large, forward, 0, True, log)
        fields = smooth_fields.new_fields(large.gaussians, None, 2, box, 0)
        model = linear_model.Model(fields, large.gaussians, large.gaussians).copy(0, fields.kept)
        state = linear_fit.first_state(large, 0, nuisances.first_widths((), problem.device), noise.power)
        for number, band in enumerate((0.05, 1.0)):
            look = {"band": band, "judge_junk": band == 1}
            state = linear_model.visit(setting, model, state, np.arange(count), number, 2, None, **look).state
            assert float((state.noise_power[2:] / noise.power[2:] - 1).abs().max()) < 0.2, band


def test_of_many_particles_some_shape_the_model_and_all_are_measured(
    moving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = load_truth(moving / "sim" / "truth.npz")
    assert truth.state is not None
    monkeypatch.setattr(linear_fit, "MOST", 400)
    with JobLog(tmp_path / "log", ["test"], "0") as log:
        options, problem, recipe, forward, noise = make_setting(moving, log)
        seen: list[int] = []
        fit_to_all = linear_fit.fit_to_all
        monkeypatch.setattr(
            linear_fit, "fit_to_all", lambda some, *rest: seen.append(some.problem.count) or fit_to_all(some, *rest)
        )
        linear = linear_fit.fit(problem, forward, noise, recipe.held, recipe.weigh_junk, options.seed, log)
        active = torch.arange(forward.zdim) < linear.count
        latents, found = joint_posterior.estimate(
            linear.measured, linear.widths, linear.junk, active, problem.group, 0, 0, log
        )
    assert seen == [400] and problem.count == 600
    z, chosen = latents.values.chunk(2, dim=1)[0].numpy(), np.zeros(600, bool)
    chosen[stream(options.seed, "particles of the linear model").permutation(600)[:400]] = True
    # A particle that did not shape the model is measured as well as one that did.
    assert explained(z, truth.state) > 0.9 and explained(z[~chosen], truth.state[~chosen]) > 0.88
    degrees, pixels = pose_error(nuisances.corrected(problem.views, found.mean), truth)
    assert degrees < 0.4 and pixels < 0.03
    assert (found.junk.probability > 0.5).sum() <= 3


def follow_from_all(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How much more likely the others' images are than those held out (nats each), before and after all shape."""
    gaps: list[float] = []
    run = linear_fit.from_all

    def gap(setting: linear_model.Setting, found: linear_model.Visit) -> float:
        held = setting.held_out
        return float(found.evidence[~held].mean() - found.evidence[held].mean())

    def followed(setting: linear_model.Setting, model: linear_model.Model, found: linear_model.Visit) -> object:
        gaps.append(gap(setting, found))
        after = run(setting, model, found)
        gaps.append(gap(setting, after))
        return after

    monkeypatch.setattr(linear_fit, "from_all", followed)
    return gaps


@pytest.mark.parametrize(
    ("errors", "most_degrees", "most_pixels"),
    [
        ((), 0.1, 0.01),
        (("--pose_error", "6"), 4.0, 0.05),
        (("--shift_error", "0.5"), 0.1, 0.25),
        (
            (
                "--pose_error",
                "6",
                "--shift_error",
                "0.5",
                "--contrast_spread",
                "0.2",
                "--junk",
                "0.1",
                "--junk_kinds",
                "noise",
            ),
            4.5,
            0.3,
        ),
    ],
    ids=["exact", "rotations", "shifts", "all"],
)
def test_a_rigid_molecule_has_no_components_whatever_its_poses(
    tmp_path: Path, errors: tuple[str, ...], most_degrees: float, most_pixels: float
) -> None:
    """What wrong poses do to the images passes for motion where it is not estimated beside it."""
    simulate(tmp_path / "sim", *errors, particles=600, snr=1.0, frames=1)
    assert preprocess(tmp_path / "sim", tmp_path / "pre", "--zdim", "4", "--epoch", "2") == 0
    truth = load_truth(tmp_path / "sim" / "truth.npz")
    with JobLog(tmp_path / "log", ["test"], "0") as log:
        linear, views = fit(tmp_path, log)
    assert linear.count == 0
    degrees, pixels = pose_error(views, truth)
    assert degrees < most_degrees and pixels < most_pixels
    junk = ~truth.real
    if junk.any():
        assert roc_area(-linear.junk.evidence.numpy(), junk) > 0.97
        assert (linear.junk.probability.numpy()[~junk] < 0.5).all()


def test_control_points_share_out_every_gaussian() -> None:
    positions = torch.rand(300, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    weights = smooth_fields.control_weights(positions, 25)
    torch.testing.assert_close(weights.sum(1), torch.ones(300))
    assert (weights >= 0).all() and weights.shape[1] <= 25
    assert smooth_fields.control_weights(positions[:1], 25).shape == (1, 1)


def test_components_are_counted_by_their_gain_on_held_out_particles() -> None:
    generator = np.random.default_rng(0)
    steps = generator.normal([2.0, 0.5, -0.3, 0.0], 1.0, size=(2000, 4))
    count, gain = linear_fit.choose_components(steps.cumsum(axis=1))
    assert count == 2 and abs(gain - 2.5) < 0.1
    assert linear_fit.choose_components(-np.abs(steps).cumsum(axis=1)) == (0, 0.0)
    assert linear_fit.choose_components(steps[:2].cumsum(axis=1) + 100) == (0, 0.0), "two particles prove nothing"
    one = np.where(np.arange(30) == 0, 300.0, -0.5)  # a single image proves nothing either
    assert linear_fit.choose_components(one[:, None]) == (0, 0.0)
    late = np.stack([np.full(40, 3.0), np.full(40, -0.6), np.full(40, 0.4)], axis=1).cumsum(axis=1)
    assert linear_fit.choose_components(late) == (1, 3.0), "the third takes back a part of what the second lost"
    some = np.where(np.arange(30) % 4 == 0, 30.0, -0.5)  # a state that a quarter of the particles are in does
    assert linear_fit.choose_components(some[:, None])[0] == 1


def test_enough_particles_are_kept_aside_to_see_two_states_in_noise() -> None:
    """Images of a latent with the information 0.8 gain chi-squared: 0.12 nats on average, 0.6 from one to the next."""
    generator, information = np.random.default_rng(0), 0.8
    b = generator.normal(0.0, (information * (1 + information)) ** 0.5, size=(100, 1296))
    gains = 0.5 * b**2 / (1 + information) - 0.5 * np.log(1 + information)

    def seen(share: float) -> int:
        return sum(linear_fit.choose_components(few[: round(share * 1296), None])[0] for few in gains)

    assert linear_model.held_share(1296) == 0.25 and linear_model.held_share(32_000) == 0.1
    assert seen(linear_model.held_share(1296)) > 80 > 60 > seen(0.1)


def test_the_anchor_does_not_see_the_latents(moving: Path, tmp_path: Path) -> None:
    """It holds the structure at the centre: what the particles' own latents do to theirs is not its business."""
    with JobLog(tmp_path / "log", ["test"], "0") as log:
        trainer = make_trainer(moving, log)
    rows = torch.arange(20)
    row = trainer.entries(rows) | {"shell_weight": trainer.noise.shell_weight(1.0)}
    seen, zeros = trainer.see(trainer.problem.feed.get(rows), row), torch.zeros(21, 4)
    moved = torch.cat([zeros[:20] + 3, zeros[20:]])  # the centre's latent stays 0
    with torch.no_grad():
        for head in (trainer.forward.network.d_density, trainer.forward.network.d_xyz):
            head[-1].weight.mul_(100)  # a new network changes next to nothing
        terms = [trainer.losses(seen, z) for z in (zeros, moved)]
    data, anchor = ([float(found[name][1].sum()) for found in terms] for name in ("data", "anchor"))
    assert data[0] != data[1]
    assert anchor[0] == pytest.approx(anchor[1], rel=1e-4) and anchor[0] > 0


def test_motion_that_is_left_out_stays_out(moving: Path, tmp_path: Path) -> None:
    """Through an epoch, and when a training goes on from its checkpoint."""
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    with JobLog(tmp_path / "log", ["test"], "0") as log:
        trainer = make_trainer(moving, log, moves=False)
        with torch.no_grad():
            before = trainer.forward.network.decode(z, trainer.forward.embed())[0]
        trainer.run_epoch(log)
        again = make_trainer(moving, log, moves=False)
        again.restore(trainer.state())
        with torch.no_grad():
            (density, position), resumed = (t.forward.network.decode(z, t.forward.embed()) for t in (trainer, again))
    assert (position == 0).all() and (density - before).abs().max() > 1e-4
    assert not trainer.state()["moves"] and (resumed[1] == 0).all()
    torch.testing.assert_close(resumed[0], density)
