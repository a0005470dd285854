"""A linear model of the heterogeneity, fitted before the network learns: where the latents come from.

Every Gaussian moves and changes in proportion to the latent,

    position(z) = position + sum_k z_k u_k,    raw density(z) = raw density + sum_k z_k a_k,

and the fields u_k, a_k are smooth: weighted means of values at control points spread over the molecule. With z from
a standard normal distribution this is probabilistic PCA (Tipping and Bishop, J. R. Stat. Soc. B 61, 1999) seen
through poses and CTFs, as 3D variability analysis has it for voxels (Punjani and Fleet, J. Struct. Biol. 213, 2021),
but with displacements, so that one component can carry a motion. Poses, contrast and defocus of every image are
estimated together with its latent (see ``nuisances``). A particle may have many images, as in tilt series: they share
its latent (see ``grouping``), and a batch holds whole particles.

It is fitted by stochastic EM. E step, each time that a particle is visited: one Gauss-Newton step of its latent and
nuisances, whose curvature gives their posterior. M step: Adam on the fields and the consensus Gaussians, at values
drawn from that posterior. A few thousand parameters with exact posteriors can be learnt from images that are far too
noisy for an image encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

from gaussianem_core.errors import AbortRequested
from gaussianem_core.imaging import likelihood
from gaussianem_core.imaging.fourier import shell_sizes
from gaussianem_core.job.events import JobLog
from gaussianem_core.model.gauge import Gauge, find_gauge
from gaussianem_core.model.gaussians import Gaussians, scale_densities
from gaussianem_core.runtime.device import Ranks, distributed
from gaussianem_core.runtime.streams import stream, torch_seed
from gaussianem_core.training import junk, nuisances, regularisers
from gaussianem_core.training.adam import Adam
from gaussianem_core.training.forward_model import ForwardModel, Views, project_gaussians, project_pieces, spectrum
from gaussianem_core.training.grouping import Grouping, Members, placed
from gaussianem_core.training.joint_posterior import (
    Expectation,
    Quadratic,
    joined,
    linearise,
    missing_pieces,
    other_images,
    residual_power,
)
from gaussianem_core.training.mixture_prior import Measured
from gaussianem_core.training.noise_model import NoiseModel
from gaussianem_core.training.nuisances import COUNT
from gaussianem_core.training.problem import Problem
from gaussianem_core.training.smooth_fields import SmoothFields, deform

WIDTH = 1.0  # the fields have a normal prior of this width: where images say nothing, nothing moves
BATCH = (32, 256)
HELD_OUT, LEAST_HELD, MOST_HELD = 0.1, 400, 0.25  # share of the particles kept aside: more of few, up to the last
DIFFERENCE = 0.3  # in z, by which derivatives are measured
SAMPLES = 2  # steps of the fields each time that a particle's posterior is found, which costs more than they do
ANCHOR = 1.0  # weight of the prior that holds the Gaussians to the consensus map
MEAN_RATES = {"raw_density": 0.2, "raw_scale": 0.05, "positions": 0.002}  # Adam's, as shares of the fields' rate


@dataclass(frozen=True)
class Setting:
    """Inputs of every pass: ``seed`` of the streams of random numbers; ``weigh_junk``: whether junk images are found,
    and count less; ``forward``: number of latents, box and projector; ``keep_aside``: whether to hold particles out."""

    problem: Problem
    forward: ForwardModel
    seed: int
    weigh_junk: bool
    log: JobLog
    ranks: Ranks = field(default_factory=distributed)
    keep_aside: bool = True

    @property
    def device(self) -> torch.device:
        """Device of the problem's tensors."""
        return self.problem.device

    @property
    def particles(self) -> int:
        """Number of particles."""
        return self.problem.group.count

    @property
    def batch(self) -> int:
        """Particles of a step on each process: in total a hundredth of all images, within BATCH images and memory."""
        world, count = self.ranks.world, self.problem.count
        return self.whole(min(int(np.clip(count // 100, *BATCH)) // world, self.fits))

    @property
    def most(self) -> int:
        """Particles on each process at once where no step is made: as many as fit into memory."""
        return self.whole(self.fits)

    @property
    def fits(self) -> int:
        """Images that fit into memory at once."""
        return self.forward.renders_at_once(decoded=False) // (self.forward.zdim + 2 + COUNT)

    def whole(self, images: int) -> int:
        """Particles that have so many ``images`` on average, at least one and at most a process's share."""
        images = min(images, self.problem.count // self.ranks.world)
        return max(1, min(images * self.particles // self.problem.count, self.particles // self.ranks.world))

    @property
    def held_out(self) -> torch.Tensor:  # (N,) bool
        """Images of held-out particles, which do not shape the fields: all rows of an observation, or none."""
        unit = self.problem.unit
        chosen = stream(self.seed, "held out").random(int(unit.max()) + 1)[unit]
        return torch.from_numpy(chosen < self.share_aside).to(self.device)

    @property
    def share_aside(self) -> float:
        """Share of the observations that is held out."""
        return held_share(int(self.problem.unit.max()) + 1) if self.keep_aside else 0.0

    def passes(self, particles: int, steps: int, limits: tuple[int, int]) -> int:
        """Number of passes over ``particles`` that make ``steps`` steps of the fields, within ``limits``."""
        each = -(-particles // (self.batch * self.ranks.world))
        return int(np.clip(-(-steps // (SAMPLES * each)), *limits))


def held_share(particles: int) -> float:
    """Share of ``particles`` that is held out: HELD_OUT, or more of few, for LEAST_HELD particles, up to MOST_HELD.

    A gain of a seventh of a nat each, as two states give in noisy images, is significant in LEAST_HELD particles but
    not in a hundred.
    """
    return min(max(HELD_OUT, LEAST_HELD / particles), MOST_HELD)


class State(NamedTuple):
    """Estimates for N images between two passes.

    q : (N, 7) nuisances, see ``nuisances``. z : (N, K) latents of their particles.
    junk : (N,) probability that an image is junk.
    pieces : (N, 2) log-evidences (nats) of densities that differ, see ``junk.explained_by_densities``.
    widths : (7,) standard deviations of the prior of q. noise_power : (S,) by shell.
    broken : (N,) bool, see ``junk.broken``.
    """

    q: torch.Tensor
    z: torch.Tensor
    junk: torch.Tensor
    pieces: torch.Tensor
    widths: torch.Tensor
    noise_power: torch.Tensor
    broken: torch.Tensor


class Visit(NamedTuple):
    """Result of one pass over N images.

    state : after the pass.
    measured : quadratic of each image in q / ``widths`` and z. widths : (7,), those that the pass began with.
    gains : (N, K), log-evidence (nats) of each image's particle with the first 1, ... K components, over that with
        nuisances alone. evidence : (N,), that of all components, up to a constant of the images.
    junk : verdicts about the images.
    left, cost : (N,), chi2 and cost of the posterior, see ``joint_posterior.Posterior``.
    image_power : (N, S) of the images by shell.

    Of particles that were not visited, verdicts of junk, pieces and broken images are as before; all else is 0.
    """

    state: State
    measured: Quadratic
    widths: torch.Tensor
    gains: torch.Tensor
    evidence: torch.Tensor
    junk: junk.Junk
    left: torch.Tensor
    cost: torch.Tensor
    image_power: torch.Tensor


@dataclass
class Model:
    """Parameters of the linear model: smooth ``fields`` and the ``gaussians`` they deform, with a prior about
    ``consensus``, the Gaussians of the consensus map on the same scale of densities."""

    fields: SmoothFields
    gaussians: Gaussians
    consensus: Gaussians

    def copy(self, count: int, kept: torch.Tensor) -> Model:
        """A copy with parameters of its own: the first ``count`` fields, each times ``kept`` (4,) (1 keeps a part)."""
        learnt = {name: getattr(self.gaussians, name).detach().clone().requires_grad_() for name in MEAN_RATES}
        return Model(self.fields.part(count, kept), replace(self.gaussians, **learnt), self.consensus)

    def optimiser(self, rate: float) -> Adam:
        """Adam for fields, at ``rate``, and Gaussians, at the shares MEAN_RATES of it."""
        learnt = [(self.fields.values, 1.0), *((getattr(self.gaussians, name), s) for name, s in MEAN_RATES.items())]
        groups = [{"params": [value], "lr": share * rate, "share": share} for value, share in learnt]
        return Adam(groups, betas=(0.9, 0.99))


def set_rate(optimiser: Adam, rate: float) -> None:
    """Set the rate of the fields; the Gaussians' rates keep their shares of it."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["share"]


def visit(
    setting: Setting,
    model: Model,
    state: State,
    some: np.ndarray,
    epoch: int,
    epochs: int,
    optimiser: Adam | None,
    *,
    stage: str = "linear model",
    band: float = 1.0,
    judge_junk: bool = True,
    regions: list[torch.Tensor] | None = None,
) -> Visit:
    """One pass over particles: E and M steps, or E steps alone without an optimiser.

    Parameters
    ----------
    model : changed in place by the optimiser's steps.
    state : estimates before the pass.
    some : (P,) numbers of the particles.
    epoch, epochs : number of the pass, which names its random numbers, and of all passes, for the progress.
    band : frequency (cycles/pixel) up to which images count.
    judge_junk : whether images may be found to be junk, where the setting weighs it; else only broken ones are.
    regions : see :func:`junk.find_regions`; with them, missing pieces are looked for.

    Raises
    ------
    AbortRequested : a stop was asked for.
    """
    problem, forward, ranks, device = setting.problem, setting.forward, setting.ranks, setting.device
    count, batch = len(model.fields.values), setting.most if optimiser is None else setting.batch
    size = COUNT + count
    torch.manual_seed(torch_seed(setting.seed, "linear model", epoch))
    order = stream(setting.seed, "order of the linear model", epoch).permutation(some)
    noise = NoiseModel(state.noise_power, forward.box)
    weight, train = noise.weight(band), ~setting.held_out * (1 - state.junk)
    anchor = regularisers.find_anchor(model.consensus)
    factors = len(regions or ())
    columns = [size, count, size, size * size, 1, 1, 1, 1, factors, factors**2, *[len(noise.power)] * 2]
    found = torch.zeros(problem.count, sum(columns), device=device)
    for done, rows, images, fresh, group in batches(setting, order, batch):
        given, image = problem.views.rows(rows), spectrum(images)
        with torch.no_grad():
            e = expect(setting, model, given, state, rows, image, weight, group)
            m, p = e.measured, e.posterior
            figures = torch.stack([m.chi2, p.chi2, p.cost, torch.ones_like(p.cost)], dim=1)
            parts = [e.next, p.gain[:, COUNT:].cumsum(1), m.linear, m.information.flatten(1), figures]
            if regions:
                made = project_regions(setting, model, regions, given, state, rows)
                parts += [value.flatten(1) for value in missing_pieces(e, made, weight)]
            parts += [residual_power(e, weight, noise), noise.by_shell(image)]
            found[rows[:fresh]] = torch.cat(parts, dim=1)[:fresh]
        if optimiser is not None:
            for _ in range(SAMPLES):
                # What one process would draw. Images of a particle need no common draw: each one's is right by itself.
                white = torch.randn(ranks.world * len(rows), size, 1, device=device)
                white = white[ranks.rank * len(rows) : (ranks.rank + 1) * len(rows)]
                drawn = e.next + (p.spread @ white)[..., 0]  # the covariance is spread spread^T
                q, z = drawn[:, :COUNT] * state.widths, drawn[:, COUNT:]
                views = nuisances.corrected(given, q)
                made = project(setting, model, *deform(model.gaussians, model.fields.all(), z), views)
                made = spectrum(made) * views.transfer(forward.box)
                made = made * (1 + q[:, nuisances.CONTRAST])[:, None, None]
                error = (likelihood.squared_error(made, image, weight) * train[rows]).mean()
                prior = 0.5 * (model.fields.values / WIDTH).square().sum()
                prior = prior + ANCHOR * regularisers.anchor_term(model.gaussians, anchor)
                optimiser.zero_grad()
                (error + prior / problem.count).backward()
                for parameter in optimiser.parameters:
                    if parameter.grad is not None:
                        ranks.mean_(parameter.grad)
                optimiser.step()
        setting.log.progress(stage, epoch * len(some) + done, epochs * len(some))
        if ranks.any(setting.log.abort_requested()):
            raise AbortRequested("stopped on request")
    ranks.sum_(found)
    v, gains, linear, information, chi2, left, cost, seen, *differ, residual, image_power = found.split(columns, dim=1)
    seen, pieces = seen[:, 0], state.pieces
    measured = Quadratic(linear, information.unflatten(1, (size, size)), chi2[:, 0])
    probability, faulty = state.junk, state.broken
    visited = seen > 0
    here = problem.group.rows(visited)
    if setting.weigh_junk and visited.any():
        now = junk.broken(image_power[visited, 1:] @ shell_sizes(forward.box, device)[1:])
        faulty = faulty.masked_scatter(visited, now)
    if factors and visited.any():
        differences = Measured(differ[0][visited], differ[1][visited].unflatten(1, (factors, factors)))
        weighed = junk.explained_by_densities(differences, here, faulty[visited])
        pieces = pieces.masked_scatter(visited[:, None], weighed)
    verdict = junk.Junk(state.junk, torch.zeros_like(state.junk), torch.zeros((), device=device))
    if setting.weigh_junk and not judge_junk:
        probability = torch.maximum(probability, (faulty & visited).float())
    elif setting.weigh_junk:
        found_junk = junk.find_junk(
            left[visited, 0],
            cost[visited, 0],
            noise.power,
            image_power[visited],
            shell_sizes(forward.box, device),
            pieces[visited],
            here,
            noise.share(band),
        )
        probability = state.junk.masked_scatter(visited, found_junk.probability)
        evidence = torch.zeros_like(probability).masked_scatter(visited, found_junk.evidence)
        verdict = junk.Junk(probability, evidence, found_junk.share)
    share = seen * (1 - probability)
    counted = share > 0
    residual = torch.where(counted[:, None], residual, 0.0)
    power = (share[:, None] * residual).sum(0) / share.sum().clamp_min(1e-6)
    measured_noise = noise.copy()
    if counted.any():
        measured_noise.update(power)
    told = joined(measured, other_images(measured.without(faulty), problem.group))
    widths = nuisances.fit_widths(told.linear[counted], told.information[counted], state.widths, share[counted])
    # Where there is no particle, the next pass starts from what was given.
    v = torch.where(probability[:, None] < 0.5, v, 0.0)
    z = problem.group.images(v[problem.group.first, COUNT:])  # the same to the last bit
    after = State(v[:, :COUNT] * state.widths, z, probability, pieces, widths, measured_noise.power, faulty)
    evidence = -0.5 * left[:, 0] - cost[:, 0]
    if not problem.group.single:
        evidence = problem.group.images(problem.group.total(evidence.masked_fill(faulty, 0.0)))
    return Visit(after, measured, state.widths, gains, evidence, verdict, left[:, 0], cost[:, 0], image_power)


class Batch(NamedTuple):
    """One process's share of a step: ``rows`` (B,) and ``images`` (B, D, D) of the whole particles of ``group``.

    ``done``: particles of all processes up to this step. ``fresh``: how many of the rows, the first ones, have not come
    before in this pass.
    """

    done: int
    rows: torch.Tensor
    images: torch.Tensor
    fresh: int
    group: Grouping


def batches(setting: Setting, order: np.ndarray, batch: int) -> Iterator[Batch]:
    """Yield this process's share, ``batch`` particles, of each step over ``order`` (P,), numbers of particles.

    Where the last step is not full, particles from the beginning fill it, so that all processes have as many steps.
    """
    ranks, feed, members = setting.ranks, setting.problem.feed, Members.of(setting.problem.group)
    step = batch * ranks.world
    padded = np.resize(order, -(-len(order) // step) * step)
    mine = padded.reshape(-1, ranks.world, batch)[:, ranks.rank]
    for number, (rows, images) in enumerate(feed.images([members.rows(particles) for particles in mine])):
        sizes = members.sizes(mine[number])
        begin = number * step + ranks.rank * batch
        fresh = int(sizes[: int(np.clip(len(order) - begin, 0, batch))].sum())
        yield Batch(min((number + 1) * step, len(order)), rows, images, fresh, placed(sizes, setting.device))


def expect(
    setting: Setting,
    model: Model,
    given: Views,
    state: State,
    rows: torch.Tensor,
    image: torch.Tensor,
    weight: torch.Tensor,
    group: Grouping,
) -> Expectation:
    """E step of the images ``rows`` (B,), whole particles of ``group``: one Gauss-Newton step of nuisances and latents.

    ``given``: their poses and CTFs as given. ``image`` (B, D, D//2+1): their spectra. ``weight`` (D, D//2+1):
    multiplicity / noise power.
    """
    q, z = state.q[rows], state.z[rows]
    forward, count = setting.forward, z.shape[1]
    offsets = torch.cat([torch.zeros(1, count, device=z.device), DIFFERENCE * torch.eye(count, device=z.device)])
    several = (z[:, None] + offsets).flatten(0, 1)
    views = nuisances.corrected(given, q)
    positions, densities = deform(model.gaussians, model.fields.all(), several)
    projected = spectrum(project(setting, model, positions, densities, views.repeat(count + 1)))
    first = slice(0, None, count + 1)
    deep = densities[first] * nuisances.depths(positions[first], views.rotations, forward.box)
    deep_spectrum = spectrum(project(setting, model, positions[first], deep, views))
    return linearise(
        projected.unflatten(0, (len(z), count + 1)),
        deep_spectrum,
        views,
        q,
        z,
        state.widths,
        image,
        weight,
        DIFFERENCE,
        group,
        state.broken[rows],
    )


def project_regions(
    setting: Setting, model: Model, regions: list[torch.Tensor], given: Views, state: State, rows: torch.Tensor
) -> torch.Tensor:  # -> (B, R, D, D//2+1)
    """Spectrum that each of R regions adds to the images of ``rows`` (B,), with CTF and contrast."""
    forward, q = setting.forward, state.q[rows]
    views = nuisances.corrected(given, q)
    moved = deform(model.gaussians, model.fields.all(), state.z[rows])
    made = spectrum(project_pieces(model.gaussians, regions, *moved, views, forward.box, forward.backend))
    scaled = views.transfer(forward.box) * (1 + q[:, nuisances.CONTRAST])[:, None, None]
    return made * scaled[:, None]


def project(
    setting: Setting, model: Model, positions: torch.Tensor, densities: torch.Tensor, views: Views
) -> torch.Tensor:  # (B, M, 3), (B, M) -> (B, D, D)
    """Projections, before the CTF, of the model's Gaussians at other positions and densities."""
    forward = setting.forward
    return project_gaussians(model.gaussians, positions, densities, views, forward.box, forward.backend)


def regauge(setting: Setting, model: Model, state: State) -> State:
    """Bring the model into its gauge: no rigid motion in the fields (see ``model.gauge``), and a mean contrast of 1.

    What the fields lose is added to the poses, and the factor of the contrasts to the densities. ``model`` is changed
    in place; the state with the changed nuisances is returned.
    """
    with torch.no_grad():
        q = state.q
        if len(model.fields.values) and setting.problem.movable is None:  # a mask fixes what stays
            fields = model.fields.all()
            gauge = find_gauge(model.gaussians, fields[..., :3], fields[..., 3], 2 / setting.forward.box)
            model.fields.gauge = gauge
            moved = carried(gauge, fields, state.z, setting.problem.views, setting.forward.box)
            q = q + moved * (state.widths > 0)
        if state.widths[nuisances.CONTRAST] > 0:
            share = 1 - state.junk
            contrast = 1 + q[:, nuisances.CONTRAST]
            mean = (share * contrast).sum() / share.sum().clamp_min(1e-6)
            factor = mean.clamp(0.5, 2.0)
            model.gaussians.raw_density.copy_(scale_densities(model.gaussians, factor).raw_density)
            model.consensus = scale_densities(model.consensus, factor)
            q = torch.cat([q[:, :5], (contrast / factor - 1)[:, None], q[:, 6:]], dim=1)
    return state._replace(q=q)


def carried(
    gauge: Gauge, fields: torch.Tensor, z: torch.Tensor, views: Views, box: int
) -> torch.Tensor:  # (K, M, 4), (N, K) -> (N, 7)
    """Changes of the nuisances that stand for the rigid motion taken out of the fields: a turn of the molecule by w and
    a shift by d are a turn by R w in the image's frame and a shift by -R d."""
    rigid = z @ gauge.rigid(fields[..., :3])
    turn, shift = rigid[:, :3], rigid[:, 3:]
    moved = shift - torch.linalg.cross(turn, gauge.centre.expand_as(turn))
    q = torch.zeros(len(z), COUNT, device=z.device)
    q[:, nuisances.ROTATION] = (views.rotations @ turn[..., None])[..., 0]
    q[:, nuisances.SHIFT] = -(views.rotations[:, :2] @ moved[..., None])[..., 0] * (box / 2)
    q[:, nuisances.CONTRAST] = z @ (fields[..., 3] @ gauge.level)
    return q
