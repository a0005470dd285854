"""Latents of all particles with the present network: from the encoder, or refined against the images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from gaussianem_core.imaging import likelihood
from gaussianem_core.imaging.fourier import shell_sizes
from gaussianem_core.imaging.likelihood import signal_fit
from gaussianem_core.job.events import JobLog
from gaussianem_core.runtime.streams import stream
from gaussianem_core.training import latent_posterior, mixture_prior, nuisances
from gaussianem_core.training.corrections import Corrections
from gaussianem_core.training.forward_model import Views, project_pieces, spectrum
from gaussianem_core.training.grouping import Members, placed
from gaussianem_core.training.joint_posterior import (
    Quadratic,
    by_particle,
    estimate,
    joined,
    linearise,
    missing_pieces,
    other_images,
)
from gaussianem_core.training.junk import BROKEN_NATS, explained_by_densities, find_junk, find_regions, unknown
from gaussianem_core.training.mixture_prior import Latents, Measured
from gaussianem_core.training.other_valleys import better_starts
from gaussianem_core.training.profile import Profile, bent
from gaussianem_core.training.trainer import Trainer

DIFFERENCE = 0.1
"""Step in z of the finite differences along each latent."""
CHECKS = 2
"""How often, in each round, images are compared again at the latents that their quadratics lead to."""


class Refinement(NamedTuple):
    """Refined latents of P particles.

    values : (P, 2 * zdim), means, then log-variances.
    latents : with their population and samples; None where there is no population.
    corrections : of the images' poses, contrast and defocus that go with the latents, or None.
    figures : ``log_likelihood`` (P,) in nats, without the constant; ``signal_fit`` (P,), see
        ``likelihood.signal_fit``; and with a population ``image_mu`` and ``image_logvar`` (P, zdim), mean and
        log-variance of each latent under a standard normal prior in place of the population.
    """

    values: torch.Tensor
    latents: Latents | None
    corrections: Corrections | None
    figures: dict[str, torch.Tensor]


@torch.no_grad()
def encode_all(trainer: Trainer, log: JobLog, batch: int = 1024) -> torch.Tensor:  # (N, 2 * zdim)
    """Means and log-variances of all latents from the encoder, in row order; each process encodes its share."""
    trainer.forward.eval()
    ranks, count = trainer.ranks, trainer.problem.count
    values = torch.zeros_like(trainer.table.values)
    mine, done = np.arange(ranks.rank, count, ranks.world), 0
    for rows, images in trainer.problem.feed.images([mine[piece] for piece in parts(len(mine), batch)]):
        mean, log_variance = trainer.forward.network.encoder(trainer.encoder_view(images))
        values[rows] = torch.cat([mean, log_variance.clamp(*latent_posterior.LOG_VARIANCE_RANGE)], dim=1)
        done += len(rows)
        log.progress("encode", min(done * ranks.world, count), count)
    return ranks.sum_(values)


@torch.no_grad()
def refine(trainer: Trainer, log: JobLog, iterations: int, candidates: int, prior: float) -> Refinement:
    """Refine the latents of all particles against their images, with the present network.

    Where latents have a population (recipes with latents "linear"), the quadratics of the images in nuisances and
    latents are measured in ``iterations`` rounds, each at the posterior means of the round before (the first where
    :func:`other_valleys.better_starts` says), and the population is estimated anew. Where an image turns out to be
    less likely at its new mean than its quadratic says, the quadratic is corrected (``profile.bent``): a piece that is
    absent has no derivative, and nothing else would keep the population from filling it in.

    Elsewhere each particle first tries the latents of ``candidates`` other particles, drawn at random, and starts from
    one that explains its image better. Then ``iterations`` Gauss-Newton steps lead to the maximum a posteriori; the
    prior is standard normal, weighted by ``prior`` (the KL weight in training; 1 gives the true posterior), and the
    values are the maxima and the variances of Laplace's approximation.

    Raises AbortRequested, where one process trains.
    """
    trainer.forward.eval()
    if not trainer.latents_sampled:
        return climb(trainer, log, iterations, candidates, prior)
    values, corrections = better_starts(trainer, trainer.table.values, trainer.corrections, log)
    for _ in range(iterations):
        found = measure(trainer, values, corrections, log)
        values, corrections = found.values, found.corrections or corrections
    return found


def measure(trainer: Trainer, values: torch.Tensor, corrections: Corrections, log: JobLog) -> Refinement:
    """One round of :func:`refine` for latents with a population, from ``values`` (P, 2 * zdim) and ``corrections``.

    Raises AbortRequested, where one process trains.
    """
    forward, ranks, problem, device, noise = (
        trainer.forward,
        trainer.ranks,
        trainer.problem,
        trainer.device,
        trainer.noise,
    )
    group, members = problem.group, Members.of(problem.group)
    means, active = group.images(values[:, : forward.zdim]), torch.nonzero(trainer.active)[:, 0]
    broken = corrections.junk.evidence <= -BROKEN_NATS
    size, shells = nuisances.COUNT + len(active), len(noise.power)
    offsets = torch.zeros(len(active) + 1, forward.zdim, device=device)
    offsets[torch.arange(1, len(active) + 1, device=device), active] = DIFFERENCE
    embedding, weight, widths = forward.embed(), noise.weight(), corrections.widths
    regions = find_regions(forward.positions) if trainer.recipe.weigh_junk else []
    factors = len(regions)
    columns = [size, size * size, 1, 1, 1, 1, factors, factors**2, shells]
    found = torch.zeros(problem.count, sum(columns), device=device)
    done = 0
    each = max(1, forward.renders_at_once() // (len(active) + 2 + nuisances.COUNT))
    batches = members.batches(np.arange(ranks.rank, group.count, ranks.world), each)
    seen = problem.feed.images([members.rows(particles) for particles in batches])
    for particles, (rows, images) in zip(batches, seen):
        image, q, z = spectrum(images), corrections.mean[rows], means[rows]
        views = nuisances.corrected(problem.views.rows(rows), q)
        deformed = forward.deform((z[:, None] + offsets).flatten(0, 1), embedding)
        projected = spectrum(forward.project(deformed.positions, deformed.densities, views.repeat(len(offsets))))
        projected = projected.unflatten(0, (len(rows), len(offsets)))
        first = slice(0, None, len(offsets))
        deep = nuisances.depths(deformed.positions[first], views.rotations, trainer.box)
        deep = spectrum(forward.project(deformed.positions[first], deformed.densities[first] * deep, views))
        together = placed(members.sizes(particles), device)
        e = linearise(
            projected, deep, views, q, z[:, active], widths, image, weight, DIFFERENCE, together, broken[rows]
        )
        m, p = e.measured, e.posterior
        if trainer.population is not None and len(active):
            v = nuisances.in_widths(q, widths)
            profile = Profile.of(image, e.scaled, weight.sqrt(), e.jacobian[:, : nuisances.COUNT], v)
            here = profile.energies(projected[:, :1])[0][:, 0]
            for _ in range(CHECKS):
                summed = by_particle(m.without(broken[rows]), together)
                ahead = z.clone()
                ahead[:, active] = together.images(mixture_prior.summary(trainer.population, summed)[0])
                there = profile.energies(spectrum(forward.render(ahead, views, embedding))[:, None])[0][:, 0]
                m = bent(m, z[:, active], ahead[:, active], (there - here).where(~broken[rows], 0.0), together)
        fit = signal_fit(projected[:, 0] * e.transfer, image, weight)
        parts = [m.linear, m.information.flatten(1), torch.stack([m.chi2, p.chi2, p.cost, fit], dim=1)]
        if regions:
            shown, dense = deformed.positions[first], deformed.densities[first]
            made = project_pieces(forward.gaussians, regions, shown, dense, views, trainer.box, forward.backend)
            parts += [value.flatten(1) for value in missing_pieces(e, spectrum(made) * e.scaled[:, None], weight)]
        found[rows] = torch.cat([*parts, noise.by_shell(image)], dim=1)
        done += len(rows)
        log.progress("refine latents", min(done * ranks.world, problem.count), problem.count)
        if ranks.world == 1:
            log.check_abort()
    ranks.sum_(found)
    linear, information, chi2, left, cost, fit, *differ, power = found.split(columns, dim=1)
    measured = Quadratic(linear, information.unflatten(1, (size, size)), chi2[:, 0])
    junk = corrections.junk
    if trainer.recipe.weigh_junk:
        pieces = unknown(problem.count, device)
        if regions:
            differences = Measured(differ[0], differ[1].unflatten(1, (factors, factors)))
            pieces = explained_by_densities(differences, group, broken)
        junk = find_junk(left[:, 0], cost[:, 0], noise.power, power, shell_sizes(trainer.box, device), pieces, group)
    measured = measured.without_broken(junk)
    latents, now = estimate(measured, widths, junk, trainer.active, group, trainer.options.seed, trainer.epoch, log)
    share = 1 - junk.probability
    counted = share > 0
    with_others = joined(measured, other_images(measured, group))
    said = (with_others.linear[counted], with_others.information[counted])
    # The linear model has separated errors of poses from motion: widths must not grow again where the network describes
    # the motion less well.
    now = now._replace(widths=torch.minimum(widths, nuisances.fit_widths(*said, widths, share[counted])))
    alone = mixture_prior.summary(mixture_prior.standard_normal(len(active), device), by_particle(measured, group))
    mean, log_variance = mixture_prior.all_dimensions(*alone, trainer.active).chunk(2, dim=1)
    # The sum of standard normal figures, as a standard normal one.
    fit = group.total(fit[:, 0]) / group.sizes.sqrt()
    told = {"log_likelihood": group.total(-0.5 * left[:, 0]), "signal_fit": fit, "image_mu": mean}
    return Refinement(latents.values, latents, now, told | {"image_logvar": log_variance})


def climb(trainer: Trainer, log: JobLog, iterations: int, candidates: int, prior: float) -> Refinement:
    """:func:`refine` for latents without a population. Raises AbortRequested, where one process trains."""
    forward, ranks, problem, device = trainer.forward, trainer.ranks, trainer.problem, trainer.device
    start_mean = trainer.table.mean
    active = latent_posterior.active_dimensions(start_mean, trainer.table.log_variance)
    assumed = mixture_prior.standard_normal(len(active), device, prior)
    embedding, weight = forward.embed(), trainer.noise.weight()
    drawn = stream(trainer.options.seed, "candidates", trainer.epoch).permutation(problem.count)[:candidates]
    tried = start_mean[torch.from_numpy(drawn).to(device)]
    shared = forward.deform(tried, embedding)
    size, zdim = len(active), forward.zdim
    found = torch.zeros(problem.count, zdim + size + size * size, device=device)
    figures = {name: torch.zeros(problem.count, device=device) for name in ("log_likelihood", "signal_fit")}
    many = forward.renders_at_once()
    each = max(1, many // (size + 1))
    done = 0

    def energy(model: torch.Tensor, image: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return likelihood.squared_error(model, image, weight) - assumed.log_density(z.view(-1, zdim)[:, active])

    mine = np.arange(ranks.rank, problem.count, ranks.world)
    for block, seen in problem.feed.images([mine[piece] for piece in parts(len(mine), many)]):
        images, block_views = spectrum(seen), problem.views.rows(block)
        transfers = block_views.transfer(trainer.box)
        start = start_mean[block]
        if len(tried):
            pieces = parts(len(block), many)
            projections = torch.cat([forward.render(start[p], block_views.rows(p), embedding) for p in pieces])
            least = energy(spectrum(projections) * transfers, images, start)
            for number, z in enumerate(tried):
                if device.type == "cpu":  # a block takes long there
                    log.check_abort()
                other = forward.project(shared.positions[number], shared.densities[number], block_views)
                now = energy(spectrum(other) * transfers, images, z)
                start = torch.where((now < least)[:, None], z, start)
                least = torch.minimum(now, least)
        for piece in parts(len(block), each):
            rows, views, image, transfer = block[piece], block_views.rows(piece), images[piece], transfers[piece]
            first = spectrum(forward.render(start[piece], views, embedding)) * transfer
            scale = torch.ones(len(rows), device=device)
            if trainer.recipe.scale_prior:
                scale = likelihood.image_scale(first, image, weight, trainer.recipe.scale_prior)

            def spectra(
                z: torch.Tensor,
                views: Views = views,
                transfer: torch.Tensor = transfer,
                scale: torch.Tensor = scale,
            ) -> torch.Tensor:
                batch, several, zdim = z.shape
                projections = forward.render(z.reshape(-1, zdim), views.repeat(several), embedding)
                made = spectrum(projections).unflatten(0, (batch, several))
                return made * (transfer * scale[:, None, None])[:, None]

            best = latent_posterior.gauss_newton(spectra, image, weight, start[piece], active, prior, iterations)
            found[rows] = torch.cat([best.z, best.linear, best.information.flatten(1)], dim=1)
            figures["log_likelihood"][rows] = best.log_likelihood
            figures["signal_fit"][rows] = signal_fit(best.spectrum / scale[:, None, None], image, weight)
        done += len(block)
        log.progress("refine latents", min(done * ranks.world, problem.count), problem.count)
        if ranks.world == 1:
            log.check_abort()
    for tensor in (found, *figures.values()):
        ranks.sum_(tensor)
    z, linear, information = found.split([zdim, size, size * size], dim=1)
    measured = Measured(linear, information.unflatten(1, (size, size)))
    every = torch.zeros(zdim, dtype=torch.bool, device=device).index_fill(0, active, True)
    # The optimum of E[data] + beta KL is the posterior of data / beta: precision J^T W J / beta + 1.
    variance = prior * mixture_prior.summary(assumed, measured)[1]
    return Refinement(mixture_prior.all_dimensions(z[:, active], variance, every), None, None, figures)


def parts(count: int, each: int) -> list[slice]:
    """Slices that cut ``count`` rows into pieces of ``each``."""
    return [slice(begin, begin + each) for begin in range(0, count, each)]
