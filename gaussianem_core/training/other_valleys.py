"""Starts of the refinement of latents in other valleys of the likelihood: each particle tries latents of others.

Gauss-Newton steps lead to the nearest minimum of the energy, and with a motion through large angles there may be
several. So each particle tries the latents of some others, with its own nuisances corrected to first order for each,
and starts from the one with the greatest posterior probability.
"""

from __future__ import annotations

import numpy as np
import torch

from gaussianem_core.job.events import JobLog
from gaussianem_core.runtime.streams import stream
from gaussianem_core.training import nuisances
from gaussianem_core.training.corrections import Corrections, real_particles
from gaussianem_core.training.forward_model import spectrum
from gaussianem_core.training.grouping import Members, placed
from gaussianem_core.training.junk import BROKEN_NATS
from gaussianem_core.training.latent_posterior import flat
from gaussianem_core.training.profile import Profile
from gaussianem_core.training.trainer import Trainer

CANDIDATES = 32
"""Number of other particles whose latents each particle tries."""
TOGETHER = 8
"""Number of these that are projected at once."""


@torch.no_grad()
def better_starts(
    trainer: Trainer, values: torch.Tensor, corrections: Corrections, log: JobLog
) -> tuple[torch.Tensor, Corrections]:
    """Latents and nuisances from which each particle is measured next.

    They are the particle's own, ``values`` (P, 2 * zdim) and ``corrections``, or, where the latent of one of CANDIDATES
    other particles has a greater posterior probability, that latent and the nuisances that suit it best. Without a
    population or active latents all stay as they are. Raises AbortRequested, where one process trains.
    """
    forward, ranks, problem, device = trainer.forward, trainer.ranks, trainer.problem, trainer.device
    population = trainer.population
    if population is None or not trainer.active.any():
        return values, corrections
    group, members = problem.group, Members.of(problem.group)
    means = values[:, : forward.zdim]
    real = torch.nonzero(real_particles(corrections.junk, group))[:, 0].cpu().numpy()
    drawn = stream(trainer.options.seed, "candidates", trainer.epoch).permutation(real)[:CANDIDATES]
    tried = means[torch.from_numpy(drawn).to(device)]
    broken = corrections.junk.evidence <= -BROKEN_NATS
    embedding, widths, root = forward.embed(), corrections.widths, trainer.noise.weight().sqrt()
    shared = forward.deform(tried, embedding)
    own_prior, tried_prior = (population.log_density(z[:, trainer.active]) for z in (means, tried))
    found, done = torch.zeros(problem.count, 1 + nuisances.COUNT, device=device), 0
    each = max(1, forward.renders_at_once() // (2 + nuisances.COUNT + 2 * TOGETHER))
    batches = members.batches(np.arange(ranks.rank, group.count, ranks.world), each)
    seen = problem.feed.images([members.rows(particles) for particles in batches])
    # Where each particle has one image, nothing below makes the host wait for the GPU.
    for particles, (rows, images) in zip(batches, seen):
        together, q = placed(members.sizes(particles), device), corrections.mean[rows]
        here = group.particle[rows[together.first]]
        views = nuisances.corrected(problem.views.rows(rows), q)
        deformed = forward.deform(together.images(means[here]), embedding)
        projected = spectrum(forward.project(deformed.positions, deformed.densities, views))
        deep = nuisances.depths(deformed.positions, views.rotations, trainer.box)
        deep = spectrum(forward.project(deformed.positions, deformed.densities * deep, views))
        contrast = 1 + q[:, nuisances.CONTRAST]
        transfer = views.transfer(trainer.box)
        by_q = nuisances.derivatives(projected, deep, views, contrast, transfer) * widths[:, None, None]
        v = nuisances.in_widths(q, widths)
        profile = Profile.of(spectrum(images), transfer * contrast[:, None, None], root, flat(by_q * root), v)
        whole = ~broken[rows]  # no model says anything of the others: they neither choose nor follow
        least = together.total(profile.energies(projected[:, None])[0][:, 0].where(whole, 0.0)) - own_prior[here]
        chosen, follows = rows.new_full(rows.shape, -1), q
        for begin in range(0, len(tried), TOGETHER):
            part = slice(begin, begin + TOGETHER)
            if device.type == "cpu":  # a batch takes long there
                log.check_abort()
            others = [forward.project(*other, views) for other in zip(shared.positions[part], shared.densities[part])]
            energies, v = profile.energies(spectrum(torch.stack(others, dim=1)))
            energies = together.total(energies.where(whole[:, None], 0.0)) - tried_prior[part]
            now, place = energies.min(dim=1)
            better, place = together.images(now < least), together.images(place)
            least = torch.minimum(now, least)
            chosen = torch.where(better, begin + place, chosen)
            suits = v.gather(1, place[:, None, None].expand(-1, 1, nuisances.COUNT))[:, 0] * widths
            follows = torch.where((better & whole)[:, None], suits, follows)
        found[rows] = torch.cat([chosen[:, None].float(), follows], dim=1)
        done += len(rows)
        log.progress("other valleys", min(done * ranks.world, problem.count), problem.count)
        if ranks.world == 1:
            log.check_abort()
    ranks.sum_(found)
    chosen = found[group.first, 0].round().long()
    moved = chosen >= 0
    start = torch.where(moved[:, None], tried[chosen.clamp_min(0)], means)
    log.message(f"{int(moved.sum()):,} of {group.count:,} particles are measured from another latent than their last")
    return torch.cat([start, values[:, forward.zdim :]], dim=1), corrections._replace(mean=found[:, 1:])
