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
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import nn

from gaussianem_core.errors import AbortRequested
from gaussianem_core.imaging import likelihood
from gaussianem_core.imaging.ctf import ctf
from gaussianem_core.job.events import JobLog
from gaussianem_core.runtime.neighbours import neighbour_tree
from gaussianem_core.training import latent_posterior, mixture_prior
from gaussianem_core.training.trainer import Trainer

GAUSSIANS_PER_POINT, MOST_POINTS = 12, 400
FIRST_SIZE = 0.5  # the fields start as noise of this many UNITS, ...
WIDTH = 1.0  # ... and have a normal prior of this width: where images say nothing, nothing moves
RATE = 0.1  # Adam's, in UNITS a step
PIXELS, RAW_DENSITY = 1.0, 0.5  # one unit of a field: pixels of displacement, change of raw density
STEPS, EPOCHS = 1000, (4, 20)  # steps of a fit, within these numbers of passes over the particles
BATCH = (32, 256)
HELD_OUT, SIGNIFICANT = 0.1, 3.0  # share of the particles kept aside; standard errors that a component must gain
LAST_RATE = 0.05  # of a fit, as a share of its first
DIFFERENCE, LARGEST_STEP = 0.3, 1.5  # of the Gauss-Newton step, in z
DRAWS = 2  # steps of the fields each time that a particle's posterior is found, which costs more than they do
ALL, COMPOSITION = (1.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 1.0)  # parts of a field that are kept
ALONE_STEPS, ALONE_EPOCHS, ALONE_RATE = 200, (2, 4), 0.2  # steps of a fit with these; its rate as a share of RATE
ALONE_PARTICLES = 8000  # that are asked about it
TEACH_STEPS, TEACH_LATENTS, TEACH_GAUSSIANS, TEACH_RATE = 400, 32, 128, 1e-3


@dataclass
class SmoothFields:
    """K fields over M Gaussians. ``weights`` (M, C), rows sum to 1; ``values`` (K, C, 4) in ``unit`` (4,); ``kept``
    (4,) is 0 for what is left out, and 1 for the rest."""

    weights: torch.Tensor
    values: nn.Parameter
    unit: torch.Tensor
    kept: torch.Tensor

    def all(self) -> torch.Tensor:  # (K, M, 4)
        """Displacement x, y, z (world units) and change of raw density of every Gaussian at z_k = 1."""
        return torch.einsum("mc,kcd->kmd", self.weights, self.values * (self.unit * self.kept))

    def part(self, count: int, kept: torch.Tensor) -> SmoothFields:
        """A copy of the first ``count`` with those parts of each that ``kept`` (4,) names."""
        return SmoothFields(self.weights, nn.Parameter(self.values.detach()[:count].clone()), self.unit, kept)


def control_weights(positions: torch.Tensor, count: int) -> torch.Tensor:  # (M, 3) -> (M, C)
    """Shares of ``count`` control points (k-means of the positions) in each Gaussian, as wide as they are apart."""
    points = positions.detach().cpu().double().numpy()
    centres, labels = kmeans2(points, min(count, len(points)), seed=0, minit="points")
    centres = centres[np.bincount(labels, minlength=len(centres)) > 0]
    spacing = neighbour_tree(centres).query(centres, k=2)[0][:, 1].mean() if len(centres) > 1 else 1.0
    squared = ((points[:, None] - centres[None]) ** 2).sum(-1)
    exponent = -0.5 * squared / spacing**2
    weights = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return torch.as_tensor(weights / weights.sum(axis=1, keepdims=True), dtype=torch.float32, device=positions.device)


def new_fields(trainer: Trainer) -> SmoothFields:
    """Fields of small noise, one a latent dimension."""
    gaussians, device = trainer.problem.gaussians, trainer.device
    points = min(MOST_POINTS, max(8, len(gaussians) // GAUSSIANS_PER_POINT))
    weights = control_weights(gaussians.positions, points)
    if trainer.problem.movable is not None:
        weights = weights * trainer.problem.movable[:, None]
    generator = torch.Generator().manual_seed(trainer.options.seed)
    values = FIRST_SIZE * torch.randn(trainer.table.zdim, weights.shape[1], 4, generator=generator)
    pixel = PIXELS * 2 / trainer.box
    unit = torch.tensor([pixel, pixel, pixel, RAW_DENSITY], device=device)
    return SmoothFields(weights, nn.Parameter(values.to(device)), unit, torch.ones_like(unit))


def fit(trainer: Trainer, log: JobLog) -> SmoothFields:
    """Fit the linear model and choose its components.

    The trainer then has adopted the latents' population and posteriors; ``active`` are the dimensions in use, and the
    noise spectrum is that of the residuals.
    """
    problem, table, ranks = trainer.problem, trainer.table, trainer.ranks
    fields = new_fields(trainer)
    optimiser = torch.optim.Adam([fields.values], lr=RATE, betas=(0.9, 0.99))
    everyone = np.arange(problem.count)
    each = -(-problem.count // (batch_size(trainer) * ranks.world))
    epochs = int(np.clip(-(-STEPS // (DRAWS * each)), *EPOCHS))
    table.mean.zero_()
    table.log_variance.zero_()
    for epoch in range(epochs):
        for group in optimiser.param_groups:
            group["lr"] = RATE * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + np.cos(np.pi * epoch / (epochs - 1))))
        visit(trainer, fields, log, everyone, epoch, epochs + 1, optimiser)
    with torch.no_grad():  # axes along which the latents vary most come first; the prior is the same in all directions
        axes = torch.linalg.eigh(torch.cov(table.mean.T.cpu().double()).reshape(table.zdim, -1))[1].flip(1)
        axes = axes.to(trainer.device, torch.float32)
        table.mean.copy_(table.mean @ axes)
        fields.values.copy_(torch.einsum("kcd,kl->lcd", fields.values, axes))
    found = visit(trainer, fields, log, everyone, epochs, epochs + 1, None)
    count, gain = choose_components(found.gains[held_out(trainer)].cpu().double().numpy())
    log.message(f"linear model: {count} of {table.zdim} components are real, {gain:.2f} nats a held-out particle")
    trainer.active.copy_(torch.arange(table.zdim, device=trainer.device) < count)
    linear, information = found.measured
    fields, measured = choose_motion(trainer, fields.part(count, fields.kept), log)
    if not fields.kept[0]:
        trainer.hold_still()
    # Without the other components the quadratic of each particle is what it is where these are 0.
    trainer.adopt(measured or mixture_prior.Measured(linear[:, :count], information[:, :count, :count]), log)
    return fields


def choose_motion(
    trainer: Trainer, both: SmoothFields, log: JobLog
) -> tuple[SmoothFields, mixture_prior.Measured | None]:
    """Fields without motion, and what images say about their latents, unless those with ``both`` motion and change of
    density are SIGNIFICANTLY better; then ``both`` and None. The two are fitted on for the same few steps first."""
    device, everyone = trainer.device, np.arange(trainer.problem.count)
    some = np.random.default_rng([trainer.options.seed, 19]).permutation(everyone)[:ALONE_PARTICLES]
    asked = torch.zeros(len(everyone), dtype=torch.bool, device=device)
    asked[torch.from_numpy(some).to(device)] = True
    asked &= held_out(trainer)
    if asked.sum() < 2:
        return both, None
    table, noise = trainer.table.values.clone(), trainer.noise_power.clone()
    each = -(-len(some) // (batch_size(trainer) * trainer.ranks.world))
    epochs = int(np.clip(-(-ALONE_STEPS // (DRAWS * each)), *ALONE_EPOCHS))
    gains = []
    for kept in (ALL, COMPOSITION):
        trainer.table.values.copy_(table)
        fields = both.part(len(both.values), torch.tensor(kept, device=device))
        optimiser = torch.optim.Adam([fields.values], lr=ALONE_RATE * RATE, betas=(0.9, 0.99))
        for epoch in range(epochs):
            if epoch == epochs - 1:
                optimiser.param_groups[0]["lr"] = LAST_RATE * RATE
            visit(trainer, fields, log, some, epoch, epochs + 1, optimiser, "motion or composition")
            trainer.noise_power.copy_(noise)
        found = visit(trainer, fields, log, some, epochs, epochs + 1, None, "motion or composition")
        gains.append(found.gains[asked, -1])
        trainer.noise_power.copy_(noise)
    more = gains[0] - gains[1]
    error = float(more.std() / len(more) ** 0.5)
    words = f"it gains {more.mean():.2f} nats a held-out particle, standard error {error:.2f}"
    if more.mean() > SIGNIFICANT * error:
        log.message(f"motion is real: {words}, over changes of composition alone")
        return both, None
    log.message(f"composition alone changes, motion is left out: {words}")
    if len(some) < len(everyone):
        optimiser = torch.optim.Adam([fields.values], lr=LAST_RATE * RATE, betas=(0.9, 0.99))
        for epoch, of in enumerate((optimiser, None)):
            found = visit(trainer, fields, log, everyone, epoch, 2, of, "motion or composition")
    return fields, found.measured


def held_out(trainer: Trainer) -> torch.Tensor:  # (N,) bool
    """Particles that do not shape the fields."""
    draw = np.random.default_rng([trainer.options.seed, 13]).random(trainer.problem.count)
    return torch.from_numpy(draw < HELD_OUT).to(trainer.device)


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


def batch_size(trainer: Trainer) -> int:
    """Particles of one step on each process: together a hundredth of all, within BATCH and what the memory holds."""
    world, fits = trainer.ranks.world, trainer.renders_at_once(decoded=False) // (trainer.table.zdim + 1)
    wanted = int(np.clip(trainer.problem.count // 100, *BATCH))
    return max(1, min(wanted // world, fits, trainer.problem.count // world))


class Visit(NamedTuple):
    """What one pass found: ``gains`` (N, K), see :func:`choose_components`, and what the images say about latents."""

    gains: torch.Tensor
    measured: mixture_prior.Measured


def visit(
    trainer: Trainer,
    fields: SmoothFields,
    log: JobLog,
    some: np.ndarray,
    epoch: int,
    epochs: int,
    optimiser: torch.optim.Optimizer | None,
    stage: str = "linear model",
) -> Visit:
    """One pass over the particles ``some``: E and M steps, or E alone without an optimiser. Raises AbortRequested."""
    problem, table, ranks, device = trainer.problem, trainer.table, trainer.ranks, trainer.device
    count, batch = len(fields.values), batch_size(trainer)
    torch.manual_seed(trainer.options.seed * 1000003 + 7919 * epoch)
    order = np.random.default_rng([trainer.options.seed, epoch, 11]).permutation(some)
    weight, held = trainer.weight(1.0), held_out(trainer)
    sizes = [count, count, count, count * count]  # means, log-variances, gains, information
    found = torch.zeros(problem.count, sum(sizes), device=device)
    residual, passes = torch.zeros_like(trainer.noise_power), 0
    mine = slice(ranks.rank * batch, (ranks.rank + 1) * batch)
    for done, rows, images, fresh in batches(trainer, order, batch):
        image, transfer = torch.fft.rfft2(images, norm="ortho"), ctf(problem.ctf[rows], trainer.box)
        with torch.no_grad():
            e = expect(trainer, fields.all(), rows, image, transfer, weight)
            log_variance = e.spread.square().sum(-1).log().clamp(*latent_posterior.LOG_VARIANCE_RANGE)
            found[rows[:fresh]] = torch.cat([e.mean, log_variance, e.gain, e.information.flatten(1)], dim=1)[:fresh]
            residual, passes = residual + e.power, passes + 1
        if optimiser is not None:
            for _ in range(DRAWS):
                noise = torch.randn(ranks.world * batch, count, 1, device=device)[mine]  # what one process would draw
                drawn = e.mean + (e.spread @ noise)[..., 0]  # the covariance is spread spread^T
                spectrum = render(trainer, fields.all(), drawn, rows) * transfer * e.scale
                error = (likelihood.squared_error(spectrum, image, weight) * ~held[rows]).mean()
                error = error + 0.5 * (fields.values / WIDTH).square().sum() / problem.count
                optimiser.zero_grad()
                error.backward()
                assert fields.values.grad is not None
                ranks.sum_(fields.values.grad).div_(ranks.world)
                optimiser.step()
        log.progress(stage, epoch * len(some) + done, epochs * len(some))
        if ranks.any(log.abort_requested()):
            raise AbortRequested("stopped on request")
    ranks.sum_(found)
    mean, log_variance, gains, information = found.split(sizes, dim=1)
    table.mean[:, :count], table.log_variance[:, :count] = mean, log_variance
    power = ranks.mean(residual / passes)
    trainer.noise_power.copy_(power.clamp_min(1e-3 * power[1:].mean()))
    information = information.unflatten(1, (count, count))
    linear = ((information + torch.eye(count, device=device)) @ mean[..., None])[..., 0]  # their prior was N(0, 1)
    return Visit(gains, mixture_prior.Measured(linear, information))


def batches(trainer: Trainer, order: np.ndarray, batch: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, int]]:
    """This process's share of each step: particles done in all, rows, images, and how many rows are there first.

    The first particles come again where the last step is not full: so each process has the same number of steps.
    """
    ranks, feed = trainer.ranks, trainer.problem.feed
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
    images, residual power by shell."""

    mean: torch.Tensor
    information: torch.Tensor
    spread: torch.Tensor
    gain: torch.Tensor
    scale: torch.Tensor
    power: torch.Tensor


def expect(
    trainer: Trainer,
    fields: torch.Tensor,
    rows: torch.Tensor,
    image: torch.Tensor,
    transfer: torch.Tensor,
    weight: torch.Tensor,
) -> Expectation:
    """One Gauss-Newton step of the latents of ``rows`` (B,) from the table; ``fields`` (K, M, 4).

    With J the derivative of the image and r the residual at z, the model linear about z has at 0 the residual r - J z;
    its posterior has the precision A = J J^T + 1 and the mean A^-1 b, b = -J (r - J z), and its evidence, over that
    without components, is 1/2 b^T A^-1 b - 1/2 log det A. Of the first k components these are the leading blocks,
    so one Cholesky factor gives them all.
    """
    count, device = len(fields), trainer.device
    z = trainer.table.mean[rows, :count]
    identity = torch.eye(count, device=device)
    offsets = torch.cat([torch.zeros(1, count, device=device), DIFFERENCE * identity])
    several = (z[:, None] + offsets).reshape(-1, count)
    spectra = render(trainer, fields, several, rows.repeat_interleave(count + 1)).unflatten(0, (len(rows), count + 1))
    spectra = spectra * transfer[:, None]
    scale = torch.ones(len(rows), 1, 1, device=device)
    if trainer.recipe.scale_prior:
        scale = likelihood.image_scale(spectra[:, 0], image, weight, trainer.recipe.scale_prior)[:, None, None]
    difference = spectra[:, 0] * scale - image
    power = trainer.shell_power(difference.abs().square().mean(0))
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


def deform(trainer: Trainer, fields: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (B, M, 3) and densities (B, M) of the linear model at latents (B, K)."""
    gaussians = trainer.model.gaussians
    change = torch.einsum("bk,kmd->bmd", z, fields)
    densities = nn.functional.softplus(gaussians.raw_density.detach() + change[..., 3])
    return gaussians.positions.detach() + change[..., :3], densities


def render(trainer: Trainer, fields: torch.Tensor, z: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Spectra (B, D, D//2+1) of the linear model's projections at ``z`` (B, K) in the poses of ``rows``."""
    return torch.fft.rfft2(trainer.project(*deform(trainer, fields, z), rows), norm="ortho")


def teach_decoder(trainer: Trainer, fields: SmoothFields, log: JobLog) -> None:
    """Regress the network's decoder on the linear model at the particles' latents: where its training starts."""
    network, gaussians = trainer.model.network, trainer.model.gaussians
    target, unit = fields.all().detach(), fields.unit
    parameters = [p for group in trainer.optimiser.param_groups if group["rate"] == "network" for p in group["params"]]
    optimiser = torch.optim.Adam(parameters, lr=TEACH_RATE)
    torch.manual_seed(trainer.options.seed + 1)
    for step in range(TEACH_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = TEACH_RATE * (1 - step / TEACH_STEPS)
        rows = torch.randint(trainer.problem.count, (TEACH_LATENTS,), device=trainer.device)
        chosen = torch.randint(len(gaussians), (TEACH_GAUSSIANS,), device=trainer.device)
        z = trainer.draws[step % len(trainer.draws), rows]
        density, position = network.decode(z, trainer.model.embed()[chosen])
        change = torch.einsum("bk,kmd->bmd", z[:, : len(target)], target[:, chosen])
        error = ((torch.cat([position, density[..., None]], dim=-1) - change) / unit).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        log.progress("teach the decoder", step + 1, TEACH_STEPS, "steps")
    trainer.ranks.broadcast([p.data for p in parameters])
