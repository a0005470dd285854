"""Latents of all particles once a network stands: from the encoder, by search and Gauss-Newton against the images,
and back again, the encoder taught to predict them."""

from __future__ import annotations

import numpy as np
import torch

from gaussianem_core.imaging import likelihood
from gaussianem_core.imaging.ctf import ctf
from gaussianem_core.imaging.likelihood import signal_fit
from gaussianem_core.job.events import JobLog
from gaussianem_core.training import latent_posterior, mixture_prior
from gaussianem_core.training.trainer import Trainer

TEACH_BATCH, TEACH_RATE = (32, 256), 3e-4
TEACH_EPOCHS, TEACH_STEPS = 2, 400  # at least so many


@torch.no_grad()
def encode_all(trainer: Trainer, log: JobLog, batch: int = 1024) -> None:
    """Fill the latent table from the encoder, in row order, shared among the processes."""
    trainer.model.eval()
    ranks, count = trainer.ranks, trainer.problem.count
    values = torch.zeros_like(trainer.table.values)
    for rows in torch.arange(ranks.rank, count, ranks.world).split(batch):
        images = trainer.problem.feed.get(rows)
        mean, log_variance = trainer.model.network.encoder(trainer.encoder_view(images))
        values[rows.to(trainer.device)] = torch.cat(
            [mean, log_variance.clamp(*latent_posterior.LOG_VARIANCE_RANGE)], dim=1
        )
        log.progress("encode", min(len(rows) * ranks.world + int(rows[0]), count), count)
    ranks.sum_(values)
    trainer.table.values.copy_(values)


@torch.no_grad()
def refine(trainer: Trainer, log: JobLog, iterations: int, candidates: int, prior: float) -> dict[str, torch.Tensor]:
    """Bring every latent to what its image says, with the present network.

    Each particle first tries the latents of ``candidates`` other particles, drawn at random: one that explains its
    image better is a better start, so that none stays in the wrong valley. Where training led by the linear model keeps
    a population of latents, what the images say is then measured ``iterations`` times, each time at the posterior means
    of the time before, and the population is estimated anew. Elsewhere ``iterations`` Gauss-Newton steps lead to the
    maximum a posteriori; the prior is standard normal, weighted by ``prior`` (the KL weight in training; 1 gives the
    true posterior), and the table then holds maxima and Laplace widths.

    Returns
    -------
    ``log_likelihood`` (N,) in nats, without the constant, and ``signal_fit`` (N,), see ``fourier.signal_fit``; and
    ``image_mu``, ``image_logvar`` (N, zdim), what each image says by itself, under a standard normal prior.
    """
    if trainer.led and iterations > 1:
        refine(trainer, log, iterations - 1, candidates, prior)
        return refine(trainer, log, 1, 0, prior)
    trainer.model.eval()
    table, ranks, problem, device = trainer.table, trainer.ranks, trainer.problem, trainer.device
    active = torch.nonzero(trainer.active)[:, 0]
    if not trainer.led:
        active = latent_posterior.active_dimensions(table.mean, table.log_variance)
    people = trainer.population or mixture_prior.standard_normal(len(active), device, prior)
    embedding, weight = trainer.model.embed(), trainer.weight(1.0)
    drawn = np.random.default_rng([trainer.options.seed, trainer.epoch]).permutation(problem.count)[:candidates]
    tried = table.mean[torch.from_numpy(drawn).to(device)]
    shared = trainer.deform(tried, embedding)
    size = len(active)
    found = torch.zeros(problem.count, table.zdim + size + size * size, device=device)
    figures = {name: torch.zeros(problem.count, device=device) for name in ("log_likelihood", "signal_fit")}
    many = trainer.renders_at_once()
    each = max(1, many // (size + 1))
    done = 0

    def energy(spectrum: torch.Tensor, image: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return likelihood.squared_error(spectrum, image, weight) - people.log_density(z.view(-1, table.zdim)[:, active])

    for block in torch.arange(ranks.rank, problem.count, ranks.world, device=device).split(many):
        images = torch.fft.rfft2(problem.feed.get(block), norm="ortho")
        transfers = ctf(problem.ctf[block], trainer.box)
        start = table.mean[block]
        if len(tried):
            projections = torch.cat([trainer.render(start[p], block[p], embedding)[0] for p in parts(len(block), many)])
            least = energy(torch.fft.rfft2(projections, norm="ortho") * transfers, images, start)
            for number, z in enumerate(tried):
                if device.type == "cpu":  # a block takes long there
                    log.check_abort()
                other = trainer.project(shared.positions[number], shared.densities[number], block)
                now = energy(torch.fft.rfft2(other, norm="ortho") * transfers, images, z)
                start = torch.where((now < least)[:, None], z, start)
                least = torch.minimum(now, least)
        for piece in parts(len(block), each):
            rows, image, transfer = block[piece], images[piece], transfers[piece]
            first = torch.fft.rfft2(trainer.render(start[piece], rows, embedding)[0], norm="ortho") * transfer
            scale = torch.ones(len(rows), device=device)
            if trainer.recipe.scale_prior:
                scale = likelihood.image_scale(first, image, weight, trainer.recipe.scale_prior)

            def spectra(
                z: torch.Tensor,
                rows: torch.Tensor = rows,
                transfer: torch.Tensor = transfer,
                scale: torch.Tensor = scale,
            ) -> torch.Tensor:
                batch, several, zdim = z.shape
                repeated = rows.repeat_interleave(several)
                projections = trainer.render(z.reshape(-1, zdim), repeated, embedding)[0]
                spectrum = torch.fft.rfft2(projections, norm="ortho").unflatten(0, (batch, several))
                return spectrum * (transfer * scale[:, None, None])[:, None]

            best = latent_posterior.gauss_newton(
                spectra, image, weight, start[piece], active, prior, 0 if trainer.led else iterations
            )
            found[rows] = torch.cat([best.z, best.linear, best.information.flatten(1)], dim=1)
            figures["log_likelihood"][rows] = best.log_likelihood
            figures["signal_fit"][rows] = signal_fit(best.spectrum / scale[:, None, None], image, weight)
        done += len(block)
        log.progress("refine latents", min(done * ranks.world, problem.count), problem.count)
        if ranks.world == 1:
            log.check_abort()
    for tensor in (found, *figures.values()):
        ranks.sum_(tensor)
    z, linear, information = found.split([table.zdim, size, size * size], dim=1)
    measured = mixture_prior.Measured(linear, information.unflatten(1, (size, size)))
    if trainer.led:
        trainer.adopt(measured, log)
        alone = trainer.spread_out(*mixture_prior.summary(mixture_prior.standard_normal(size, device), measured))
        figures["image_mu"], figures["image_logvar"] = alone.split(table.zdim, dim=1)
    else:
        # The optimum of E[data] + beta KL is the posterior of data / beta: precision J^T W J / beta + 1.
        variance = prior * mixture_prior.summary(people, measured)[1]
        table.values.copy_(trainer.spread_out(z[:, active], variance, active))
    return figures


def parts(count: int, each: int) -> list[slice]:
    """Slices that cut ``count`` into pieces of ``each``."""
    return [slice(begin, begin + each) for begin in range(0, count, each)]


def teach_encoder(trainer: Trainer, log: JobLog) -> None:
    """Regress the encoder on the latents (their likelihood under its posterior), so that it can encode new images."""
    encoder, problem, table = trainer.model.network.encoder, trainer.problem, trainer.table
    batch = min(int(np.clip(problem.count // 10, *TEACH_BATCH)), problem.count)
    if trainer.ranks.rank == 0 and batch > 1:
        encoder.train()
        for p in encoder.parameters():
            p.grad = None
        optimiser = torch.optim.AdamW(encoder.parameters(), lr=TEACH_RATE, weight_decay=0.0, fused=True)
        each, done = problem.count // batch, 0
        epochs = max(TEACH_EPOCHS, -(-TEACH_STEPS // each))
        for epoch in range(epochs):
            order = np.random.default_rng([trainer.options.seed, epoch, 7]).permutation(problem.count)
            for rows, images in problem.feed.batches(order, batch):
                images = problem.feed.get(rows) if images is None else images
                mean, log_variance = encoder(trainer.encoder_view(images))
                log_variance = log_variance.clamp(*latent_posterior.LOG_VARIANCE_RANGE)
                target = table.values[rows]
                spread = (target[:, : table.zdim] - mean).square() + target[:, table.zdim :].exp()
                loss = 0.5 * (spread * (-log_variance).exp() + log_variance).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                done += 1
                log.progress("teach the encoder", done, epochs * each, "steps")
    trainer.ranks.broadcast(list(encoder.state_dict().values()))
