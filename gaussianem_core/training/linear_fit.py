"""Fit of the linear model, and choice of its components by held-out particles.

A tenth of the particles or more (``linear_model.held_share``) is held out while all is chosen. The evidence of
their images with 1, 2, ... components, nuisances and latents integrated out, tells how many components are real: the
others would follow the noise, and are left out. With these components the images must also be more likely than under
the best model without components. Motion is tested in the same way: at low resolution a domain that is absent looks
much like one that is elsewhere, and no image shows what a wrong displacement does to the details. So where changes of
density alone make the held-out images as likely, nothing moves. After the choice those held out shape the fields too,
where they are more than a tenth: a quarter is too much to lose.

Of more than MOST particles so many, drawn at random, shape the model, and all are measured with it, which spares most
of the passes over the others.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gaussianem_core.job.events import JobLog
from gaussianem_core.runtime.streams import stream
from gaussianem_core.training import nuisances
from gaussianem_core.training.forward_model import ForwardModel
from gaussianem_core.training.joint_posterior import Quadratic
from gaussianem_core.training.junk import Junk, find_regions, unknown
from gaussianem_core.training.linear_model import (
    COUNT,
    HELD_OUT,
    Model,
    Setting,
    State,
    Visit,
    regauge,
    set_rate,
    visit,
)
from gaussianem_core.training.noise_model import NoiseModel
from gaussianem_core.training.problem import Problem, mean_per_unit
from gaussianem_core.training.smooth_fields import ALL, COMPOSITION, new_fields

MOST = 100_000  # particles that shape the model
MEASURING_PASSES = 3  # over all particles, where more are there
RATE, LAST_RATE = 0.1, 0.05  # Adam's, in UNITS a step, and the last as a share of it
STEPS, EPOCHS = 1000, (4, 20)  # steps of a fit, within these numbers of passes over the particles
COARSE, SHELLS = 0.6, 64
"""Share of a fit's passes, from the first, in which no more shells (wavelengths across the box) count. The derivatives
by latents and poses hold for changes of a sixth of a wavelength, and motions are many pixels of a fine image: with all
shells of a box of 384 from the first, latents missed a tenth of a known motion, and exact poses were corrected by 0.1
degrees to make up for it (guide: Benchmarks)."""
POSE_PASSES = 2  # with nuisances alone, before there are components
NULL_PASSES, NULL_RATE = 2, 0.3  # of the model without components that the others are compared with
ODDS, ERRORS = 1e3, 2.5  # of a gain on held-out images, see :func:`significant`
LEAST_ASKED = 3  # held-out particles, below which nothing can be significant
ALONE_STEPS, ALONE_EPOCHS, ALONE_RATE = 200, (2, 4), 0.2  # steps of a fit with these; its rate as a share of RATE
ALL_RATE, ALL_EPOCHS = 0.5, (4, 12)  # as a share of RATE, and passes, where those held out come in
ALONE_IMAGES, LEAST_ALONE = 8000, 1000  # that are asked about it: images, and particles at least


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear model of N images.

    model : with the fields of the real components alone.
    measured : quadratics of the images in nuisances, in units of ``widths`` (7,), and latents.
    junk : verdicts about the images. noise_power : (D//2+1,) by shell.
    moves : False where densities change but nothing moves.
    """

    model: Model
    measured: Quadratic
    widths: torch.Tensor
    junk: Junk
    noise_power: torch.Tensor
    moves: bool

    @property
    def count(self) -> int:
        """Number of components."""
        return len(self.model.fields.values)


def fit(
    problem: Problem,
    forward: ForwardModel,
    noise: NoiseModel,
    held: Collection[str],
    weigh_junk: bool,
    seed: int,
    log: JobLog,
) -> LinearFit:
    """Fit the linear model and choose its components.

    Parameters
    ----------
    problem : particles, poses, CTFs and images.
    forward : gives the number of latents, the box and the projector; its parameters are not used.
    noise : first noise model.
    held : kinds of nuisances (of ``nuisances.KINDS``) that are taken as given.
    weigh_junk : whether junk images are found, and count less.
    seed : of the streams of random numbers.

    Raises
    ------
    AbortRequested : a stop was asked for.
    """
    setting, unit = Setting(problem, forward, seed, weigh_junk, log), problem.unit
    units = int(unit.max()) + 1
    if units <= MOST:
        return fit_to_all(setting, noise, held)
    chosen = np.zeros(units, bool)
    chosen[stream(seed, "particles of the linear model").permutation(units)[:MOST]] = True
    log.message(f"{MOST:,} of {units:,} particles shape the linear model")
    some = replace(setting, problem=problem.subset(np.flatnonzero(chosen[unit])))
    return measure_all(fit_to_all(some, noise, held), setting)


def measure_all(found: LinearFit, setting: Setting) -> LinearFit:
    """A fit to some particles, measured on all of a problem. Raises AbortRequested."""
    state = first_state(setting.problem, found.count, found.widths, found.noise_power)
    everyone, last = np.arange(setting.particles), MEASURING_PASSES - 1
    coarse = coarse_band(setting.forward.box)
    regions = find_regions(found.model.gaussians.positions) if setting.weigh_junk else None
    for number in range(MEASURING_PASSES):
        look = {"band": coarse if number < last else 1.0} if number else first_look(setting, found.widths)
        seen = visit(
            setting,
            found.model,
            state,
            everyone,
            number,
            MEASURING_PASSES,
            None,
            stage="all particles",
            **look,
            regions=regions if number == last else None,
        )
        state = seen.state._replace(widths=found.widths)  # they are those of the population, of which some are enough
    return replace(found, measured=seen.measured, junk=seen.junk, noise_power=state.noise_power)


def first_state(problem: Problem, count: int, widths: torch.Tensor, noise_power: torch.Tensor) -> State:
    """The state before the first pass: everything as it is given, ``count`` latents at 0."""
    none = torch.zeros(problem.count, device=problem.device)
    return State(
        none.new_zeros(problem.count, COUNT),
        none.new_zeros(problem.count, count),
        none,
        unknown(problem.count, problem.device),
        widths,
        noise_power,
        none.new_zeros(problem.count, dtype=torch.bool),
    )


def fit_to_all(setting: Setting, noise: NoiseModel, held: Collection[str]) -> LinearFit:
    """:func:`fit` to all particles of a setting, however many."""
    problem, forward, log = setting.problem, setting.forward, setting.log
    device, everyone = problem.device, np.arange(setting.particles)
    fields = new_fields(problem.gaussians, problem.movable, forward.zdim, forward.box, setting.seed)
    model = Model(fields, problem.gaussians, problem.gaussians).copy(forward.zdim, fields.kept)
    epochs = setting.passes(setting.particles, STEPS, EPOCHS)
    passes = POSE_PASSES + epochs + 1
    widths = nuisances.first_widths(held, device)
    state = first_state(problem, 0, widths, noise.power)
    without = model.copy(0, fields.kept)
    for number in range(POSE_PASSES):
        look = first_look(setting, state.widths) if number == 0 else {"band": coarse_band(forward.box)}
        seen = visit(setting, without, state, everyone, number, passes, None, **look)
        state = regauge(setting, without, seen.state)
    model = replace(without, fields=model.fields)
    state = state._replace(z=torch.zeros(problem.count, forward.zdim, device=device))
    optimiser = model.optimiser(RATE)
    for epoch in range(epochs):
        set_rate(optimiser, falling_rate(epoch, epochs))
        band = coarse_band(forward.box) if epoch < COARSE * epochs else 1.0
        found = visit(setting, model, state, everyone, POSE_PASSES + epoch, passes, optimiser, band=band)
        state = regauge(setting, model, found.state)
    state = principal_axes(model, state)
    regions = find_regions(model.gaussians.positions) if setting.weigh_junk else None
    found = visit(setting, model, state, everyone, passes - 1, passes, None, regions=regions)
    count, gain = real_components(setting, model, found)
    if count:
        words = f"{count} of {forward.zdim} components are real, {gain:.2f} nats a held-out particle"
        log.message(f"linear model: {words}")
    else:
        log.message("linear model: no component stands above the noise: nothing to find", "warning")
    log.metric("linear model", passes, float(passes), components=float(count), gain=gain)
    kept, moves = model.copy(count, fields.kept), True
    if count:
        kept, found, moves = choose_motion(setting, kept, found)
    if count and setting.share_aside > HELD_OUT:
        found = from_all(setting, kept, found)
    return LinearFit(
        kept, found.measured.first(COUNT + count), found.widths, found.junk, found.state.noise_power, moves
    )


def principal_axes(model: Model, state: State) -> State:
    """Rotate latents and fields onto the latents' principal axes, largest variance first, which leaves the model and
    its prior the same. The fields of ``model`` are changed in place."""
    with torch.no_grad():
        z = state.z[state.junk < 0.5]
        if len(z) < 2:
            return state
        axes = torch.linalg.eigh(torch.cov(z.T.cpu().double()).reshape(z.shape[1], -1))[1].flip(1)
        axes = axes.to(z.device, torch.float32)
        model.fields.values.copy_(torch.einsum("kcd,kl->lcd", model.fields.values, axes))
    return state._replace(z=state.z @ axes)


def real_components(setting: Setting, model: Model, found: Visit) -> tuple[int, float]:
    """Number of real components, and their gain over the model without any, in nats a held-out particle.

    :func:`choose_components` finds the candidates. Together they must make the held-out images significantly more
    likely than a model without components whose fit, of poses, contrasts and densities too, was continued.
    """
    asked = setting.held_out & (found.junk.probability < 0.5)
    rows = setting.problem.unit[asked.cpu().numpy()]
    count, _ = choose_components(mean_per_unit(found.gains[asked].cpu().double().numpy(), rows))
    if not count:
        return 0, 0.0
    everyone = np.arange(setting.particles)
    none = model.copy(0, model.fields.kept)
    optimiser = none.optimiser(NULL_RATE * RATE)
    state = found.state._replace(z=found.state.z[:, :0])
    for number in range(NULL_PASSES + 1):
        of = optimiser if number < NULL_PASSES else None
        null = visit(setting, none, state, everyone, number, NULL_PASSES + 1, of, stage="without components")
        # What is compared must not differ in the noise.
        state = null.state._replace(noise_power=found.state.noise_power)
    rest = found.gains[:, -1] - found.gains[:, count - 1]
    more = mean_per_unit((found.evidence - rest - null.evidence)[asked].cpu().double().numpy(), rows)
    error = float(more.std(ddof=1) / len(more) ** 0.5) if len(more) > 1 else float("inf")
    setting.log.message(
        f"{count} components make a held-out image {more.mean():.2f} nats more likely (standard error {error:.2f}) "
        "than corrected poses alone"
    )
    return (count, float(more.mean())) if significant(more) else (0, 0.0)


def choose_motion(setting: Setting, both: Model, found: Visit) -> tuple[Model, Visit, bool]:
    """Choose between motion with changes of density and changes of density alone.

    ``both``: the model with motion, and ``found``: its last pass. Both models are fitted for the same few steps, and
    compared by the held-out particles. Returns ``both``, ``found`` and True where motion is significantly better, else
    the model without motion, its last pass and False. Raises AbortRequested.
    """
    log, everyone, count = setting.log, np.arange(setting.particles), len(both.fields.values)
    most = max(LEAST_ALONE, ALONE_IMAGES * len(everyone) // setting.problem.count)
    some = stream(setting.seed, "motion or composition").permutation(everyone)[:most]
    chosen = torch.zeros(len(everyone), dtype=torch.bool, device=setting.device)
    chosen[torch.from_numpy(some).to(setting.device)] = True
    asked = setting.problem.group.images(chosen)
    asked = asked & setting.held_out & (found.junk.probability < 0.5)
    epochs = setting.passes(len(some), ALONE_STEPS, ALONE_EPOCHS)
    start = found.state._replace(z=found.state.z[:, :count])
    evidence = []
    for kept in (ALL, COMPOSITION):
        state, model = start, both.copy(count, torch.tensor(kept, device=setting.device))
        optimiser = model.optimiser(ALONE_RATE * RATE)
        for epoch in range(epochs + 1):
            if epoch == epochs - 1:
                set_rate(optimiser, LAST_RATE * RATE)
            of = optimiser if epoch < epochs else None
            last = visit(setting, model, state, some, epoch, epochs + 1, of, stage="motion or composition")
            state = last.state._replace(noise_power=start.noise_power)
        evidence.append(last.evidence[asked].double())
    more = mean_per_unit((evidence[0] - evidence[1]).cpu().numpy(), setting.problem.unit[asked.cpu().numpy()])
    error = float(more.std(ddof=1) / len(more) ** 0.5) if len(more) > 1 else float("inf")
    words = f"it gains {more.mean():.2f} nats a held-out particle, standard error {error:.2f}"
    if significant(more):
        log.message(f"motion is real: {words}, over changes of composition alone")
        return both, found, True
    log.message(f"composition alone changes, motion is left out: {words}")
    if len(some) < len(everyone):
        optimiser = model.optimiser(LAST_RATE * RATE)
        for epoch, of in enumerate((optimiser, None)):
            last = visit(setting, model, state, everyone, epoch, 2, of, stage="motion or composition")
            state = last.state
    return model, last, False


def from_all(setting: Setting, model: Model, found: Visit) -> Visit:
    """Go on with a chosen ``model`` (changed in place) and its last pass ``found``, held-out particles included.

    Returns the last pass. Raises AbortRequested.
    """
    whole, everyone = replace(setting, keep_aside=False), np.arange(setting.particles)
    state = found.state._replace(z=found.state.z[:, : len(model.fields.values)])
    epochs, optimiser = setting.passes(setting.particles, STEPS, ALL_EPOCHS), model.optimiser(ALL_RATE * RATE)
    for epoch in range(epochs):
        set_rate(optimiser, ALL_RATE * falling_rate(epoch, epochs))
        found = visit(whole, model, state, everyone, epoch, epochs + 1, optimiser, stage="all particles")
        # Widths are held: poses would take the steps of the fields for errors, of 0.5 degrees where all are exact.
        state = regauge(whole, model, found.state._replace(widths=state.widths))
    return visit(whole, model, state, everyone, epochs, epochs + 1, None, stage="all particles")


def falling_rate(epoch: int, epochs: int) -> float:
    """Rate of Adam in an epoch, falling from RATE to LAST_RATE * RATE along a cosine."""
    done = epoch / max(epochs - 1, 1)
    return RATE * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * done)))


def coarse_band(box: int) -> float:
    """Frequency (cycles/pixel) of SHELLS in a ``box`` (pixels); 1, beyond all shells, where it has no more."""
    return 1.0 if box <= 2 * SHELLS else SHELLS / box


def first_look(setting: Setting, widths: torch.Tensor) -> dict[str, Any]:
    """Arguments of the first :func:`visit`, before poses are corrected; by few shells no image is found to be junk."""
    band = first_band(setting, widths)
    return {"band": min(band, coarse_band(setting.forward.box)), "judge_junk": band >= 1}


def first_band(setting: Setting, widths: torch.Tensor) -> float:
    """Frequency (cycles/pixel) up to which pose errors of ``widths`` (7,) can be corrected in one step: there a typical
    Gaussian is misplaced by 1 / (2 pi) of a wavelength."""
    gaussians = setting.problem.gaussians
    mass = gaussians.densities * gaussians.sigmas**3
    centre = (mass[:, None] * gaussians.positions).sum(0) / mass.sum()
    squared = (mass * (gaussians.positions - centre).square().sum(1)).sum() / mass.sum()
    apart = float(widths[0]) * float(squared.sqrt()) * setting.forward.box / 2
    return 1 / (2 * math.pi * max(math.hypot(apart, float(widths[3])), 1e-6))


def significant(more: np.ndarray) -> bool:  # (H,)
    """Whether H held-out particles favour one model over another, by log-evidence ratios ``more`` (nats).

    Their sum must give odds of ODDS to 1: under the other model that happens with a probability of 1 / ODDS at most
    (Markov's inequality), however the ratios are distributed. And the mean must lie ERRORS standard errors above 0, so
    that no few particles decide.
    """
    if len(more) < LEAST_ASKED or more.sum() < math.log(ODDS):
        return False
    return bool(more.mean() > ERRORS * more.std(ddof=1) / math.sqrt(len(more)))


def choose_components(gains: np.ndarray) -> tuple[int, float]:  # (H, K) -> K', nats
    """Number of the last component up to which held-out particles gain significantly over the components chosen before,
    0 if there is none, and the mean gain of the components up to it (nats).

    A later component that seems to gain by itself does not bring in earlier ones that lose.

    ``gains`` (H, K): log-evidence of each held-out particle with the first 1, 2, ... K components, over that with none.
    """
    count, before = 0, np.zeros(len(gains))
    for number, gain in enumerate(gains.T, start=1):
        if significant(gain - before):
            count, before = number, gain
    return count, float(before.mean()) if count else 0.0
