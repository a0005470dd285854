"""Regression of the networks: the decoder on the linear model, the encoder on the latents of all particles."""

from __future__ import annotations

import numpy as np
import torch

from gaussianem_core.job.events import JobLog
from gaussianem_core.runtime.streams import stream, torch_seed
from gaussianem_core.training.adam import Adam
from gaussianem_core.training.latent_posterior import LOG_VARIANCE_RANGE
from gaussianem_core.training.smooth_fields import SmoothFields
from gaussianem_core.training.trainer import Trainer

DECODER_STEPS, DECODER_LATENTS, DECODER_GAUSSIANS, DECODER_RATE = 400, 32, 128, 1e-3
ENCODER_BATCH, ENCODER_RATE = (32, 256), 3e-4
ENCODER_EPOCHS, ENCODER_STEPS = 2, 400  # at least so many


def teach_decoder(trainer: Trainer, fields: SmoothFields, log: JobLog) -> None:
    """Regress the network's decoder on the linear model's ``fields`` at the particles' latents, to start from them."""
    forward = trainer.forward
    target, unit = fields.all().detach(), fields.unit
    parameters = forward.decoder_parameters()
    optimiser = Adam([{"params": parameters, "lr": DECODER_RATE}])
    torch.manual_seed(torch_seed(trainer.options.seed, "teach decoder"))
    for step in range(DECODER_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = DECODER_RATE * (1 - step / DECODER_STEPS)
        rows = torch.randint(trainer.samples.shape[1], (DECODER_LATENTS,), device=trainer.device)
        chosen = torch.randint(len(forward.positions), (DECODER_GAUSSIANS,), device=trainer.device)
        z = trainer.samples[step % len(trainer.samples), rows]
        density, position = forward.network.decode(z, forward.embed()[chosen])
        change = torch.einsum("bk,kmd->bmd", z[:, : len(target)], target[:, chosen])
        error = ((torch.cat([position, density[..., None]], dim=-1) - change) / unit).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        log.progress("teach the decoder", step + 1, DECODER_STEPS, "steps")
    trainer.ranks.broadcast([p.data for p in parameters])


def teach_encoder(trainer: Trainer, log: JobLog) -> None:
    """Regress the encoder on the latents, so that it can encode new images.

    The loss is the expected negative log-likelihood of the latents under the encoder's posterior (nats, without its
    constant). Where no latent is active the encoder's last layer is set to 0, which gives the prior. Images that hold
    no particle are left out. Each image of a particle is encoded by itself.
    """
    encoder, problem, table = trainer.forward.network.encoder, trainer.problem, trainer.table
    if trainer.latents_sampled and not trainer.active.any():
        # Every image has the same latent, the prior's: mean 0 and log-variance 0, whatever the layers before say.
        with torch.no_grad():
            for parameter in encoder.main[-1].parameters():
                parameter.zero_()
        return
    known = np.arange(problem.count)
    if trainer.latents_sampled:
        known = np.flatnonzero((trainer.corrections.junk.probability < 0.5).cpu().numpy())
    batch = min(int(np.clip(len(known) // 10, *ENCODER_BATCH)), len(known))
    if trainer.ranks.rank == 0 and batch > 1:
        encoder.train()
        for p in encoder.parameters():
            p.grad = None
        optimiser = Adam([{"params": encoder.parameters(), "lr": ENCODER_RATE}], fused=True)
        each, done = len(known) // batch, 0
        epochs = max(ENCODER_EPOCHS, -(-ENCODER_STEPS // each))
        for epoch in range(epochs):
            order = stream(trainer.options.seed, "teach encoder", epoch).permutation(known)
            for rows, images in problem.feed.images(np.split(order[: each * batch], each)):
                mean, log_variance = encoder(trainer.encoder_view(images))
                log_variance = log_variance.clamp(*LOG_VARIANCE_RANGE)
                target = table.values[problem.group.particle[rows]]
                spread = (target[:, : table.zdim] - mean).square() + target[:, table.zdim :].exp()
                loss = 0.5 * (spread * (-log_variance).exp() + log_variance).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                done += 1
                log.progress("teach the encoder", done, epochs * each, "steps")
    trainer.ranks.broadcast(list(encoder.state_dict().values()))
