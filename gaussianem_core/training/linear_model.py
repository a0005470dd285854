"""A linear model of the heterogeneity, fitted before the network learns: where the latents come from.

Every Gaussian moves and changes in proportion to the latent,

    position(z) = position + sum_k z_k u_k,    raw density(z) = raw density + sum_k z_k a_k,

and the fields u_k, a_k are smooth: weighted means of values at control points spread over the molecule. With z from
a standard normal distribution this is probabilistic PCA (Tipping and Bishop, J. R. Stat. Soc. B 61, 1999) seen
through poses and CTFs, as 3D variability analysis has it for voxels (Punjani and Fleet, J. Struct. Biol. 213, 2021),
but with displacements, so that one component can carry a motion. It is fitted by stochastic EM: each time a particle
comes by, one Gauss-Newton step of its latent, whose curvature gives its width (E), and one step of Adam on the fields
at a latent drawn from there (M). Some thousand numbers and exact posteriors find an order in images that are far too
noisy for an image encoder to learn from.

A tenth of the particles never shapes the fields. How likely their images are with 1, 2, ... components (marginal
over z) tells how many components are real: the others would only follow the noise, and are left out from then on.
The same question is asked of motion: at low resolution a domain that is not there looks much as one that is elsewhere,
and what a wrong displacement does to the details no image tells. So where changes of density alone make the held-out
images as likely, nothing moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from gaussianem_core.errors import AbortRequested
from gaussianem_core.imaging import likelihood
from gaussianem_core.job.events import JobLog
from gaussianem_core.runtime.device import Ranks, distributed
from gaussianem_core.training import latent_posterior
from gaussianem_core.training.forward_model import ForwardModel, Views, spectrum
from gaussianem_core.training.mixture_prior import Measured
from gaussianem_core.training.noise_model import NoiseModel
from gaussianem_core.training.problem import Problem, mean_per_image
from gaussianem_core.training.smooth_fields import ALL, COMPOSITION, SmoothFields, deform, new_fields

WIDTH = 1.0  # the fields have a normal prior of this width: where images say nothing, nothing moves
RATE = 0.1  # Adam's, in UNITS a step
STEPS, EPOCHS = 1000, (4, 20)  # steps of a fit, within these numbers of passes over the particles
BATCH = (32, 256)
HELD_OUT, SIGNIFICANT = 0.1, 3.0  # share of the particles kept aside; standard errors that a component must gain
LAST_RATE = 0.05  # of a fit, as a share of its first
DIFFERENCE, LARGEST_STEP = 0.3, 1.5  # of the Gauss-Newton step, in z
SAMPLES = 2  # steps of the fields each time that a particle's posterior is found, which costs more than they do
ALONE_STEPS, ALONE_EPOCHS, ALONE_RATE = 200, (2, 4), 0.2  # steps of a fit with these; its rate as a share of RATE
ALONE_PARTICLES = 8000  # that are asked about it


@dataclass(frozen=True)
class LinearFit:
    """What was found: ``fields`` of the components that are real; what the images say about their latents
    (``measured``); whether anything ``moves``, or densities alone change; and the noise spectrum (D//2+1,)."""

    fields: SmoothFields
    measured: Measured
    moves: bool
    noise_power: torch.Tensor

    @property
    def count(self) -> int:
        """Number of components."""
        return len(self.fields.values)


@dataclass(frozen=True)
class Setting:
    """What every pass of a fit reads. ``scale_prior``: width of the prior of the images' scales, 0 keeps them at 1."""

    problem: Problem
    forward: ForwardModel
    scale_prior: float
    seed: int
    log: JobLog
    ranks: Ranks = field(default_factory=distributed)

    @property
    def device(self) -> torch.device:
        return self.problem.device

    @property
    def batch(self) -> int:
        """Particles of a step on each process: together a hundredth of all, within BATCH and what the memory holds."""
        world, count = self.ranks.world, self.problem.count
        fits = self.forward.renders_at_once(decoded=False) // (self.forward.zdim + 1)
        return max(1, min(int(np.clip(count // 100, *BATCH)) // world, fits, count // world))

    @property
    def held_out(self) -> torch.Tensor:  # (N,) bool
        """Particles that do not shape the fields: all rows of an image, or none."""
        image = self.problem.image
        chosen = np.random.default_rng([self.seed, 13]).random(int(image.max()) + 1)[image]
        return torch.from_numpy(chosen < HELD_OUT).to(self.device)

    def passes(self, particles: int, steps: int, limits: tuple[int, int]) -> int:
        """Passes over so many particles that make ``steps`` of the fields, within ``limits``."""
        each = -(-particles // (self.batch * self.ranks.world))
        return int(np.clip(-(-steps // (SAMPLES * each)), *limits))


def fit(
    problem: Problem, forward: ForwardModel, noise: NoiseModel, scale_prior: float, seed: int, log: JobLog
) -> LinearFit:
    """Fit the linear model and choose its components. Raises AbortRequested."""
    setting = Setting(problem, forward, scale_prior, seed, log)
    noise = noise.copy()
    fields = new_fields(problem.gaussians, problem.movable, forward.zdim, forward.box, seed)
    optimiser = torch.optim.Adam([fields.values], lr=RATE, betas=(0.9, 0.99))
    everyone = np.arange(problem.count)
    epochs = setting.passes(problem.count, STEPS, EPOCHS)
    z = torch.zeros(problem.count, forward.zdim, device=problem.device)
    for epoch in range(epochs):
        for group in optimiser.param_groups:
            group["lr"] = RATE * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + np.cos(np.pi * epoch / (epochs - 1))))
        z = visit(setting, fields, noise, z, everyone, epoch, epochs + 1, optimiser).mean
    with torch.no_grad():  # axes along which the latents vary most come first; the prior is the same in all directions
        axes = torch.linalg.eigh(torch.cov(z.T.cpu().double()).reshape(forward.zdim, -1))[1].flip(1)
        axes = axes.to(problem.device, torch.float32)
        z = z @ axes
        fields.values.copy_(torch.einsum("kcd,kl->lcd", fields.values, axes))
    found = visit(setting, fields, noise, z, everyone, epochs, epochs + 1, None)
    held = setting.held_out
    gains = mean_per_image(found.gains[held].cpu().double().numpy(), problem.image[held.cpu().numpy()])
    count, gain = choose_components(gains)
    log.message(f"linear model: {count} of {forward.zdim} components are real, {gain:.2f} nats a held-out particle")
    linear, information = found.measured
    # Without the other components the quadratic of each particle is what it is where these are 0.
    measured = Measured(linear[:, :count], information[:, :count, :count])
    fields, alone = choose_motion(setting, fields.part(count, fields.kept), noise, found.mean[:, :count])
    return LinearFit(fields, alone or measured, bool(fields.kept[0]), noise.power)


def choose_motion(
    setting: Setting, both: SmoothFields, noise: NoiseModel, start: torch.Tensor
) -> tuple[SmoothFields, Measured | None]:
    """Fields without motion, and what images say about their latents, unless those with ``both`` motion and change of
    density are SIGNIFICANTLY better; then ``both`` and None. The two are fitted on for the same few steps first, from
    latents ``start`` (N, K)."""
    log, everyone = setting.log, np.arange(setting.problem.count)
    some = np.random.default_rng([setting.seed, 19]).permutation(everyone)[:ALONE_PARTICLES]
    asked = torch.zeros(len(everyone), dtype=torch.bool, device=setting.device)
    asked[torch.from_numpy(some).to(setting.device)] = True
    asked &= setting.held_out
    if asked.sum() < 2:
        return both, None
    epochs = setting.passes(len(some), ALONE_STEPS, ALONE_EPOCHS)
    gains = []
    for kept in (ALL, COMPOSITION):
        z, fields = start, both.part(len(both.values), torch.tensor(kept, device=setting.device))
        optimiser = torch.optim.Adam([fields.values], lr=ALONE_RATE * RATE, betas=(0.9, 0.99))
        for epoch in range(epochs + 1):
            if epoch == epochs - 1:
                optimiser.param_groups[0]["lr"] = LAST_RATE * RATE
            step = optimiser if epoch < epochs else None
            same = noise.copy()  # what is compared must not differ in the noise
            found = visit(setting, fields, same, z, some, epoch, epochs + 1, step, "motion or composition")
            z = found.mean
        gains.append(found.gains[asked, -1])
    image = setting.problem.image[asked.cpu().numpy()]
    more = mean_per_image((gains[0] - gains[1]).cpu().double().numpy(), image)
    error = float(more.std(ddof=1) / len(more) ** 0.5)
    words = f"it gains {more.mean():.2f} nats a held-out particle, standard error {error:.2f}"
    if more.mean() > SIGNIFICANT * error:
        log.message(f"motion is real: {words}, over changes of composition alone")
        return both, None
    log.message(f"composition alone changes, motion is left out: {words}")
    if len(some) < len(everyone):
        optimiser = torch.optim.Adam([fields.values], lr=LAST_RATE * RATE, betas=(0.9, 0.99))
        for epoch, of in enumerate((optimiser, None)):
            found = visit(setting, fields, noise, z, everyone, epoch, 2, of, "motion or composition")
            z = found.mean
    return fields, found.measured


def choose_components(gains: np.ndarray) -> tuple[int, float]:  # (H, K) -> K', nats
    """The last component whose gain on held-out particles is SIGNIFICANT standard errors above 0, at least one.

    ``gains``: log-evidence of each held-out particle with the first 1, 2, ... K components, over that with none.
    """
    if len(gains) < 2:
        return gains.shape[1], 0.0
    steps = np.diff(gains, axis=1, prepend=0.0)
    error = steps.std(axis=0, ddof=1) / np.sqrt(len(steps))
    real = np.flatnonzero(steps.mean(axis=0) > SIGNIFICANT * error)
    count = int(real[-1]) + 1 if len(real) else 1
    return count, float(gains[:, count - 1].mean())


class Visit(NamedTuple):
    """What one pass found: posterior means (N, K), ``gains`` (N, K), see :func:`choose_components`, and what the images
    say about latents; 0 for particles that were not visited."""

    mean: torch.Tensor
    gains: torch.Tensor
    measured: Measured


def visit(
    setting: Setting,
    fields: SmoothFields,
    noise: NoiseModel,
    z: torch.Tensor,
    some: np.ndarray,
    epoch: int,
    epochs: int,
    optimiser: torch.optim.Optimizer | None,
    stage: str = "linear model",
) -> Visit:
    """One pass over the particles ``some`` from latents ``z`` (N, K): E and M steps, or E alone without an optimiser.

    The fields follow the optimiser, and ``noise`` is measured anew. Raises AbortRequested.
    """
    problem, forward, ranks, device = setting.problem, setting.forward, setting.ranks, setting.device
    count, batch = len(fields.values), setting.batch
    torch.manual_seed(setting.seed * 1000003 + 7919 * epoch)
    order = np.random.default_rng([setting.seed, epoch, 11]).permutation(some)
    weight, held = noise.weight(), setting.held_out
    sizes = [count, count, count * count]  # means, gains, information
    found = torch.zeros(problem.count, sum(sizes), device=device)
    residual, passes = torch.zeros_like(noise.power), 0
    mine = slice(ranks.rank * batch, (ranks.rank + 1) * batch)
    for done, rows, images, fresh in batches(setting, order, batch):
        views, image = problem.views.rows(rows), spectrum(images)
        transfer = views.transfer(forward.box)
        with torch.no_grad():
            e = expect(setting, fields.all(), z[rows], rows, image, transfer, weight)
            found[rows[:fresh]] = torch.cat([e.mean, e.gain, e.information.flatten(1)], dim=1)[:fresh]
            residual, passes = residual + noise.shell_power(e.power), passes + 1
        if optimiser is not None:
            for _ in range(SAMPLES):
                white = torch.randn(ranks.world * batch, count, 1, device=device)[mine]  # what one process would draw
                drawn = e.mean + (e.spread @ white)[..., 0]  # the covariance is spread spread^T
                model = render(forward, fields.all(), drawn, views) * transfer * e.scale
                error = (likelihood.squared_error(model, image, weight) * ~held[rows]).mean()
                error = error + 0.5 * (fields.values / WIDTH).square().sum() / problem.count
                optimiser.zero_grad()
                error.backward()
                assert fields.values.grad is not None
                ranks.sum_(fields.values.grad).div_(ranks.world)
                optimiser.step()
        setting.log.progress(stage, epoch * len(some) + done, epochs * len(some))
        if ranks.any(setting.log.abort_requested()):
            raise AbortRequested("stopped on request")
    ranks.sum_(found)
    mean, gains, information = found.split(sizes, dim=1)
    noise.update(ranks.mean(residual / passes))
    information = information.unflatten(1, (count, count))
    linear = ((information + torch.eye(count, device=device)) @ mean[..., None])[..., 0]  # their prior was N(0, 1)
    return Visit(mean, gains, Measured(linear, information))


def batches(setting: Setting, order: np.ndarray, batch: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, int]]:
    """This process's share of each step: particles done in all, rows, images, and how many rows are there first.

    The first particles come again where the last step is not full: so each process has the same number of steps.
    """
    ranks, feed = setting.ranks, setting.problem.feed
    step = batch * ranks.world
    padded = np.resize(order, -(-len(order) // step) * step)
    mine = padded.reshape(-1, ranks.world, batch)[:, ranks.rank].ravel()
    for number, (rows, images) in enumerate(feed.batches(mine, batch)):
        begin = number * step + ranks.rank * batch
        fresh = int(np.clip(len(order) - begin, 0, batch))
        yield min((number + 1) * step, len(order)), rows, feed.get(rows) if images is None else images, fresh


class Expectation(NamedTuple):
    """Posterior of B latents: mean (B, K), information (B, K, K) of the images, spread L (B, K, K) with covariance
    L L^T, gain (B, K), the log-evidence with the first 1, ... K components over that with none; scale (B, 1, 1) of the
    images, residual power (D, D//2+1)."""

    mean: torch.Tensor
    information: torch.Tensor
    spread: torch.Tensor
    gain: torch.Tensor
    scale: torch.Tensor
    power: torch.Tensor


def expect(
    setting: Setting,
    fields: torch.Tensor,
    z: torch.Tensor,
    rows: torch.Tensor,
    image: torch.Tensor,
    transfer: torch.Tensor,
    weight: torch.Tensor,
) -> Expectation:
    """One Gauss-Newton step of the latents of ``rows`` (B,) from ``z`` (B, K); ``fields`` (K, M, 4).

    With J the derivative of the image and r the residual at z, the model linear about z has at 0 the residual r - J z;
    its posterior has the precision A = J J^T + 1 and the mean A^-1 b, b = -J (r - J z), and its evidence, over that
    without components, is 1/2 b^T A^-1 b - 1/2 log det A. Of the first k components these are the leading blocks,
    so one Cholesky factor gives them all.
    """
    count, device = len(fields), setting.device
    identity = torch.eye(count, device=device)
    offsets = torch.cat([torch.zeros(1, count, device=device), DIFFERENCE * identity])
    several = (z[:, None] + offsets).reshape(-1, count)
    views = setting.problem.views.rows(rows.repeat_interleave(count + 1))
    spectra = render(setting.forward, fields, several, views).unflatten(0, (len(rows), count + 1))
    spectra = spectra * transfer[:, None]
    scale = torch.ones(len(rows), 1, 1, device=device)
    if setting.scale_prior:
        scale = likelihood.image_scale(spectra[:, 0], image, weight, setting.scale_prior)[:, None, None]
    difference = spectra[:, 0] * scale - image
    power = difference.abs().square().mean(0)
    root = weight.sqrt()
    jacobian = latent_posterior.flat((spectra[:, 1:] - spectra[:, :1]) * (scale * root / DIFFERENCE)[:, None])
    residual = latent_posterior.flat(difference * root)[..., None]
    information = jacobian @ jacobian.transpose(1, 2)
    lower = torch.linalg.cholesky(information + identity)
    b = information @ z[..., None] - jacobian @ residual
    white = torch.linalg.solve_triangular(lower, b, upper=False)
    gain = (0.5 * white[..., 0].square() - lower.diagonal(dim1=1, dim2=2).log()).cumsum(1)
    step = torch.linalg.solve_triangular(lower.mT, white, upper=True)[..., 0] - z
    step = step * (LARGEST_STEP / step.norm(dim=1, keepdim=True).clamp_min(LARGEST_STEP))
    spread = torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False).mT
    return Expectation(z + step, information, spread, gain, scale, power)


def render(forward: ForwardModel, fields: torch.Tensor, z: torch.Tensor, views: Views) -> torch.Tensor:
    """Spectra (B, D, D//2+1) of the linear model's projections at ``z`` (B, K), before the CTF."""
    return spectrum(forward.project(*deform(forward.gaussians, fields, z), views))
