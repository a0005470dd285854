"""Train: prepared particles -> network, refined Gaussians and the latent of every particle (method: Train).

One step: latents of the batch -> deformed Gaussians -> projections -> CTF -> likelihood of the images, plus the KL
term and the neighbour terms; then one update of network, Gaussians and the batch's latents. On CUDA the whole step is
one CUDA graph. After the last epoch each latent is brought to its maximum a posteriori (see ``posterior``) and the
encoder is taught to predict the latents, so that the checkpoint can encode new images too.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from gaussianem_core import losses, posterior
from gaussianem_core.checkpoint import save_checkpoint, save_latents
from gaussianem_core.ctf import ctf, load_ctf
from gaussianem_core.device import choose_device, distributed, gpu_memory_advice
from gaussianem_core.errors import AbortRequested, InputError
from gaussianem_core.events import JobLog, refuse_existing, write_atomically
from gaussianem_core.feed import ImageFeed
from gaussianem_core.fourier import shell_index
from gaussianem_core.gaussians import (
    Configuration,
    Gaussians,
    load_configuration,
    load_gaussians,
    load_mask,
    write_gaussians,
)
from gaussianem_core.mrc import read_map
from gaussianem_core.network import Network, build_network
from gaussianem_core.options import TrainOptions
from gaussianem_core.paths import resolve_input
from gaussianem_core.pose import load_poses
from gaussianem_core.projection import project
from gaussianem_core.scratch import scratch_copy
from gaussianem_core.stack import ImageStack, window_mask

STATE = "training_state.pt"
CAPTURE_AFTER = 3  # eager steps before a CUDA graph is captured: kernels compile and buffers settle
REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class Recipe:
    """Losses, rates and schedule. ``w_*`` weigh the neighbour terms of ``losses``; rates are Adam's."""

    likelihood: str  # "squared" (Gaussian noise, nats per pixel) or "l1"
    latents: str  # "free", "encoder" or "both" (from the encoder first, then free)
    lr: float
    lr_latent: float
    lr_density: float  # raw density and raw scale of the consensus Gaussians; 0 keeps them
    lr_position: float
    beta: float  # KL weight; 1 is the evidence lower bound when the likelihood is "squared"
    w_embedding: float = 0.0
    w_distance: float = 0.0
    w_direction: float = 0.0
    w_spacing: float = 0.0
    w_latent: float = 0.0
    w_rigidity: float = 0.0
    w_composition: float = 0.0
    scale_prior: float = 0.0  # width of the prior of each image's scale around 1; 0 keeps the scale at 1
    band_start: float = 0.5  # resolution (cycles/pixel) at which training starts ...
    band_full: float = 0.0  # ... and the share of training after which all frequencies count
    beta_start: float = 1.0  # KL weight at the start, as a share of beta, ...
    beta_full: float = 0.0  # ... and the share of training after which it has its full weight
    final_rate: float = 1.0  # the rates' last value, as a share of the first (cosine)
    head_scale: float = 1.0  # initial output layers times this: start from the consensus
    encoder_share: float = 1.0  # "both": share of the epochs with latents from the encoder
    refine: int = 0  # Gauss-Newton iterations of the latents when the encoder hands over, halfway to the end, and there
    pairs: int = 0  # neighbour pairs drawn a step; 0 takes all


RECIPES = {
    "default": Recipe(
        likelihood="squared", latents="both", lr=1e-3, lr_latent=1e-2, lr_density=5e-3, lr_position=2e-4, beta=1.0,
        w_rigidity=1e-3, w_composition=0.0, scale_prior=0.2, band_start=0.12, band_full=0.4, beta_start=0.1,
        beta_full=0.3, final_rate=0.02, head_scale=0.1, encoder_share=0.5, refine=2, pairs=16384,
    ),
    "published": Recipe(
        likelihood="l1", latents="encoder", lr=1e-4, lr_latent=5e-2, lr_density=0.0, lr_position=0.0, beta=1 / 5e4,
        w_embedding=1e-5, w_distance=1e-2, w_direction=1e-5, w_spacing=1e-3, w_latent=1e-6,
    ),
}  # fmt: skip
TERMS = ("loss", "data", "kl", "embedding", "distance", "direction", "spacing", "rigidity", "composition", "latent")
LATENT_SPREAD, LATENT_WIDTH = 0.3, 0.5  # free latents start as N(0, 0.3^2) with posterior width 0.5
BANK = 6400
USUAL_EPOCHS, MOST_EPOCHS, LEAST_STEPS = 20, 60, 2400
WARMUP_SHARE = 0.05


def choose_recipe(options: TrainOptions) -> Recipe:
    """The named recipe with the options given explicitly."""
    recipe = RECIPES[options.recipe]
    given = {
        name: getattr(options, name)
        for name in ("lr", "lr_latent", "beta", "w_embedding", "w_distance", "w_direction", "w_spacing", "w_latent")
        if getattr(options, name) is not None
    }
    if options.latents != "auto":
        given["latents"] = options.latents
    if options.pairs:
        given["pairs"] = options.pairs
    return replace(recipe, **given)


@dataclass
class Problem:
    """Everything that training reads, on the compute device. N particles, box D."""

    configuration: Configuration
    gaussians: Gaussians
    movable: torch.Tensor | None  # (M,) bool
    rotations: torch.Tensor  # (N, 3, 3)
    shifts: torch.Tensor  # (N, 2) pixels
    ctf: torch.Tensor  # (N, 9)
    feed: ImageFeed

    @property
    def count(self) -> int:
        return self.rotations.shape[0]


class Model(torch.nn.Module):
    """What is learnt: the network, and the consensus Gaussians' raw parameters."""

    def __init__(self, network: Network, gaussians: Gaussians, train_gaussians: bool) -> None:
        super().__init__()
        self.network = network
        self.bounds = (gaussians.scale_min, gaussians.scale_max)
        self.positions = torch.nn.Parameter(gaussians.positions.clone(), train_gaussians)
        self.raw_density = torch.nn.Parameter(gaussians.raw_density.clone(), train_gaussians)
        self.raw_scale = torch.nn.Parameter(gaussians.raw_scale.clone(), train_gaussians)

    @property
    def gaussians(self) -> Gaussians:
        return Gaussians(self.positions, self.raw_density, self.raw_scale, *self.bounds)

    def embed(self) -> torch.Tensor:
        """Gaussian embedding; the consensus parameters are data here, they learn from the images alone."""
        g = self.gaussians
        return self.network.embed(
            Gaussians(g.positions.detach(), g.raw_density.detach(), g.raw_scale.detach(), *self.bounds)
        )


class Trainer:
    """State of a training: model, optimiser, latents, noise spectrum, schedule; and the step on a batch."""

    def __init__(self, problem: Problem, recipe: Recipe, options: TrainOptions, device: torch.device) -> None:
        self.problem, self.recipe, self.options, self.device = problem, recipe, options, device
        self.box = problem.configuration.box
        self.ranks = distributed()
        self.batch = min(options.batch, problem.count // self.ranks.world)
        self.steps_per_epoch = problem.count // (self.batch * self.ranks.world)
        self.epochs = options.epoch or automatic_epochs(self.steps_per_epoch)
        self.total_steps = self.steps_per_epoch * self.epochs
        self.handover = min(max(1, round(recipe.encoder_share * self.epochs)), self.epochs)
        generator = torch.Generator().manual_seed(options.seed)
        torch.manual_seed(options.seed)
        network = build_network(problem.configuration)
        with torch.no_grad():
            for head in (network.d_density, network.d_xyz):
                last = [layer for layer in head if isinstance(layer, torch.nn.Linear)][-1]
                last.weight.mul_(recipe.head_scale)
                last.bias.mul_(recipe.head_scale)
        self.model = Model(network, problem.gaussians, recipe.lr_density > 0).to(device)
        self.table = posterior.new_table(
            problem.count, network.zdim, generator, device, LATENT_SPREAD, LATENT_WIDTH
        )
        self.pairs = losses.find_pairs(problem.gaussians.positions)
        self.window = window_mask_tensor(problem.configuration, device)
        self.encode_now = recipe.latents in ("encoder", "both")
        self._make_optimiser()
        self._make_buffers()
        self.epoch, self.step_in_epoch = 0, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._eager = 0

    # -- set-up ------------------------------------------------------------------------------------------------

    def _make_optimiser(self) -> None:
        recipe, model, device = self.recipe, self.model, self.device
        self.rates = torch.zeros(6, device=device)  # network, density, position, latent, beta share, band
        skip = {id(p) for p in model.network.d_scaling.parameters()}
        if recipe.latents == "free":
            skip |= {id(p) for p in model.network.encoder.parameters()}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in model.network.parameters() if id(p) not in skip], "rate": 0},
            {"params": [p for p in (model.raw_density, model.raw_scale) if p.requires_grad], "rate": 1},
            {"params": [p for p in (model.positions,) if p.requires_grad], "rate": 2},
        ]
        groups = [group for group in groups if group["params"]]
        self.learnt = [p for group in groups for p in group["params"]]
        # All gradients lie in one buffer: one clearing, one sum over GPUs. The batch's latents are at its end.
        sizes = [p.numel() for p in self.learnt]
        latent_size = self.ranks.world * self.batch * 2 * model.network.zdim
        self.gradient = torch.zeros(sum(sizes) + latent_size, device=device)
        for p, piece in zip(self.learnt, self.gradient[: sum(sizes)].split(sizes)):
            p.grad = piece.view_as(p)
        self.latent_gradient = self.gradient[sum(sizes) :].view(self.ranks.world * self.batch, -1)
        cuda = device.type == "cuda"
        for group in groups:
            group["lr"] = torch.zeros((), device=device) if cuda else 0.0
        self.optimiser = torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0, fused=True, capturable=cuda)

    def _make_buffers(self) -> None:
        box, device, model = self.box, self.device, self.model
        index = shell_index(box, 2, device).clamp_max(box // 2)
        self.shells = index
        self.multiplicity = losses.half_plane_weight(box, device).expand(box, box // 2 + 1)
        self.shell_size = torch.zeros(box // 2 + 1, device=device).index_add_(
            0, index.flatten(), self.multiplicity.flatten()
        )
        self.noise_power = torch.ones(box // 2 + 1, device=device)
        self.residual_power = torch.zeros(box // 2 + 1, device=device)
        self.residual_count = torch.zeros((), device=device)
        self.frequency = torch.arange(box // 2 + 1, device=device) / box
        world_batch = self.batch * self.ranks.world
        self.order = torch.zeros(self.steps_per_epoch, world_batch, dtype=torch.long, device=device)
        self.schedule = torch.zeros(self.steps_per_epoch, len(self.rates), device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.images = torch.zeros(self.batch, box, box, device=device)
        self.sums = torch.zeros(len(TERMS) + 1, device=device)
        self.bank = torch.randn(BANK, model.network.zdim, device=device) if self.recipe.w_latent else None

    def estimate_noise(self) -> None:
        """First noise spectrum: the images' own mean power (the signal is a small part of it)."""
        rows = np.random.default_rng(self.options.seed).permutation(self.problem.count)[:1024]
        power = torch.zeros_like(self.noise_power)
        for chunk in np.array_split(rows, -(-len(rows) // 128)):
            spectrum = torch.fft.rfft2(self.problem.feed.get(chunk), norm="ortho")
            power += self.shell_power(spectrum.abs().square().mean(0)) * len(chunk) / len(rows)
        self.noise_power.copy_(self.ranks.mean(power))

    def shell_power(self, power: torch.Tensor) -> torch.Tensor:  # (D, D//2+1) -> (D//2+1,)
        """Mean of a half-plane of powers in each shell; the last holds the corners too."""
        total = torch.zeros_like(self.shell_size).index_add_(
            0, self.shells.flatten(), (power * self.multiplicity).flatten()
        )
        return total / self.shell_size

    # -- one step ----------------------------------------------------------------------------------------------

    def weight(self, band: torch.Tensor | float) -> torch.Tensor:  # (D, D//2+1)
        """1 / noise power times multiplicity, without the mean value, up to the frequency ``band`` (soft edge)."""
        by_shell = torch.sigmoid((band - self.frequency) / (0.5 / self.box)) / self.noise_power
        by_shell = by_shell * (self.frequency > 0)
        return by_shell[self.shells] * self.multiplicity

    def render(
        self, z: torch.Tensor, rows: torch.Tensor, embedding: torch.Tensor
    ) -> tuple[torch.Tensor, Any]:  # fmt: skip
        """Model images in real space (B, D, D), before the CTF, and the deformed Gaussians."""
        gaussians = self.model.gaussians
        deformed = self.model.network.deform(gaussians, z, embedding, self.problem.movable, self.options.precision)
        images = project(
            deformed.positions, deformed.densities, gaussians.sigmas, self.problem.rotations[rows],
            self.problem.shifts[rows], self.box, backend=self.options.projector, sigma_max=gaussians.scale_max,
        )  # fmt: skip
        return images, deformed

    def losses(
        self, rows: torch.Tensor, images: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor,
        noise: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Total loss and its terms (see TERMS) for a batch with the latent posterior given."""
        recipe, pixels = self.recipe, self.box**2
        z = mean + noise * (0.5 * log_variance).exp()
        embedding = self.model.embed()
        transfer = ctf(self.problem.ctf[rows], self.box)
        model, deformed = self.render(z, rows, embedding)
        model = torch.fft.rfft2(model, norm="ortho") * transfer
        kl = losses.kl_divergence(mean, log_variance)
        if recipe.likelihood == "l1":
            data = (torch.fft.irfft2(model, s=(self.box, self.box), norm="ortho") - images).abs().mean()
            prior = kl.mean()
        else:
            image = torch.fft.rfft2(images, norm="ortho")
            weight = self.weight(self.rates[5])
            if recipe.scale_prior:
                scale = losses.image_scale(model.detach(), image, weight, recipe.scale_prior)
                model = model * scale[:, None, None]
            data = losses.squared_error(model, image, weight).mean() / pixels
            prior = kl.sum(1).mean() / pixels
            with torch.no_grad():
                residual = (model - image).abs().square().mean(0)
                self.residual_power += self.shell_power(residual)
                self.residual_count += 1
        values = {"data": (1.0, data), "kl": (recipe.beta * self.rates[4], prior)}
        pairs = self.pairs
        if 0 < recipe.pairs < len(pairs.first):
            pairs = pairs.subset(torch.randint(len(pairs.first), (recipe.pairs,), device=self.device))
        if recipe.w_embedding:
            values["embedding"] = (recipe.w_embedding, losses.embedding_term(embedding, pairs))
        if recipe.w_distance:
            values["distance"] = (recipe.w_distance, losses.distance_term(deformed.positions, pairs))
        if recipe.w_direction:
            values["direction"] = (recipe.w_direction, losses.direction_term(deformed.displacement, pairs))
        if recipe.w_spacing:
            values["spacing"] = (recipe.w_spacing, losses.spacing_term(deformed.positions, pairs))
        if recipe.w_rigidity:
            values["rigidity"] = (recipe.w_rigidity, losses.rigidity_term(deformed.displacement, pairs))
        if recipe.w_composition:
            values["composition"] = (recipe.w_composition, losses.composition_term(deformed.density_change, pairs))
        if self.bank is not None:
            late = float(self.epoch >= 2)
            generator = torch.cuda.default_generators[self.device.index or 0] if self.device.type == "cuda" else None
            term = losses.latent_neighbour_term(z, self.bank, generator or torch.default_generator)
            values["latent"] = (recipe.w_latent * late, term)
            self.bank.copy_(torch.cat([self.bank[len(z) :], z.detach()]))
        total = sum((weight * value for weight, value in values.values()), torch.zeros((), device=self.device))
        zero = torch.zeros((), device=self.device)
        terms = [total, *(values.get(name, (0.0, zero))[1] for name in TERMS[1:])]
        return total, torch.stack([term.detach() for term in terms])

    def _step(self, gathered: bool) -> None:
        """One update, without host synchronisation, from the buffers alone: what a CUDA graph replays."""
        r, world = self.ranks, self.ranks.world
        self.rates.copy_(self.schedule[self.position][0])
        all_rows = self.order[self.position][0]
        rows = all_rows[r.rank * self.batch : (r.rank + 1) * self.batch]
        stack = self.problem.feed.stack
        images = self.images if gathered or stack is None else stack[rows].float()
        zdim = self.model.network.zdim
        noise = torch.randn(world * self.batch, zdim, device=self.device)
        noise = noise[r.rank * self.batch : (r.rank + 1) * self.batch]
        self.gradient.zero_()
        if self.encode_now:
            mean, log_variance = self.model.network.encoder(self.encoder_view(images))
            total, terms = self.losses(rows, images, mean, log_variance, noise)
            total.backward()
            self.table.values.index_copy_(0, rows, torch.cat([mean, log_variance], dim=1).detach())
        else:
            leaf = self.table.values[rows].detach().requires_grad_()
            mean, log_variance = leaf.split(zdim, dim=1)
            total, terms = self.losses(rows, images, mean, log_variance, noise)
            total.backward()
            assert leaf.grad is not None
            self.latent_gradient[r.rank * self.batch : (r.rank + 1) * self.batch] = leaf.grad
        r.sum_(self.gradient)
        if world > 1:
            self.gradient[: -self.latent_gradient.numel()] /= world
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].copy_(self.rates[group["rate"]])
            else:
                group["lr"] = float(self.rates[group["rate"]])
        self.optimiser.step()
        if not self.encode_now:
            self.table.step(all_rows, self.latent_gradient, self.rates[3])
        self.sums[:-1] += terms
        self.sums[-1] += 1
        self.position += 1

    def encoder_view(self, images: torch.Tensor) -> torch.Tensor:
        """What the encoder sees: windowed images divided by the dataset's standard deviation."""
        return images * self.window / self.problem.configuration.std

    def step(self, images: torch.Tensor | None) -> None:
        """One update; on CUDA replays the captured graph once it stands."""
        if images is not None:
            self.images.copy_(images, non_blocking=True)
        if self._graph is not None:
            self._graph.replay()
        elif self.device.type != "cuda":
            self._step(images is not None)
        else:
            # Capture wants its warm-up on a side stream.
            stream = torch.cuda.Stream(self.device)
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream):
                self._step(images is not None)
            torch.cuda.current_stream(self.device).wait_stream(stream)
            self._eager += 1
            if self._eager >= CAPTURE_AFTER:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    self._step(images is not None)
                self._graph = graph

    # -- epochs ------------------------------------------------------------------------------------------------

    def begin_epoch(self) -> None:
        """Order of the particles, rates and random numbers of the epoch; they depend on seed and epoch alone."""
        epoch, recipe = self.epoch, self.recipe
        order = np.random.default_rng([self.options.seed, epoch]).permutation(self.problem.count)
        used = self.order.numel()
        self.order.copy_(torch.from_numpy(order[:used]).view_as(self.order))
        step = torch.arange(self.steps_per_epoch, dtype=torch.float64) + epoch * self.steps_per_epoch
        done = step / self.total_steps
        warm = min(self.options.warmup_steps, int(WARMUP_SHARE * self.total_steps) + 1)
        rise = ((step + 1) / max(warm, 1)).clamp_max(1.0)
        fall = recipe.final_rate + (1 - recipe.final_rate) * 0.5 * (1 + torch.cos(torch.pi * done))
        beta = ramp(done, recipe.beta_start, 1.0, recipe.beta_full)
        band = ramp(done, recipe.band_start, 0.5 + 4 / self.box, recipe.band_full)
        columns = [recipe.lr * rise * fall, recipe.lr_density * rise * fall, recipe.lr_position * rise * fall,
                   recipe.lr_latent * fall, beta, band]  # fmt: skip
        self.schedule.copy_(torch.stack(columns, dim=1))
        encode = recipe.latents == "encoder" or (recipe.latents == "both" and epoch < self.handover)
        if encode != self.encode_now:
            self.encode_now, self._graph, self._eager = encode, None, 0
        if self.bank is not None and epoch == 2:
            self._graph, self._eager = None, 0  # the latent term's weight is part of the graph
        self.model.train()

    def seed_step_noise(self) -> None:
        """Random numbers of the steps depend on seed and epoch alone."""
        torch.manual_seed(self.options.seed * 1000003 + self.epoch + 1)

    def run_epoch(self, log: JobLog) -> None:
        """All steps of the current epoch from ``step_in_epoch`` on. Raises AbortRequested at a safe point."""
        self.begin_epoch()
        r = self.ranks
        if self.step_in_epoch == 0:
            self.seed_step_noise()
            self.residual_power.zero_()
            self.residual_count.zero_()
        self.position.fill_(self.step_in_epoch)
        self.sums.zero_()
        mine = self.order[:, r.rank * self.batch : (r.rank + 1) * self.batch].cpu().numpy()[self.step_in_epoch :]
        reported, since = time.time(), self.step_in_epoch
        for _, images in self.problem.feed.batches(mine.reshape(-1), self.batch):
            self.step(images)
            self.step_in_epoch += 1
            if time.time() - reported > REPORT_SECONDS or self.step_in_epoch == self.steps_per_epoch:
                now = time.time()
                rate = (self.step_in_epoch - since) * self.batch * r.world / (now - reported)
                self.report(log, rate)
                reported, since = time.time(), self.step_in_epoch
        if self.recipe.likelihood == "squared":
            power = r.mean(self.residual_power / self.residual_count.clamp_min(1))
            self.noise_power.copy_(power.clamp_min(1e-3 * power[1:].mean()))
        self.epoch, self.step_in_epoch = self.epoch + 1, 0

    def report(self, log: JobLog, rate: float) -> None:
        """Write the mean terms since the last report; stop here if asked to."""
        sums = self.sums.cpu().double().numpy()
        self.sums.zero_()
        means = {name: value / max(sums[-1], 1) for name, value in zip(TERMS, sums[:-1])}
        if not np.isfinite(means["loss"]):
            raise InputError("training", "must keep a finite loss", means["loss"],
                             "Lower --lr, or check the images and CTF for outliers.")  # fmt: skip
        step = self.epoch * self.steps_per_epoch + self.step_in_epoch
        shown = {name: value for name, value in means.items() if value != 0.0}
        log.metric("train", step, step / self.steps_per_epoch, **shown, lr=float(self.rates[0]), images_per_second=rate)
        images = self.batch * self.ranks.world
        log.progress("train", step * images, self.total_steps * images, every=0.0)
        if self.ranks.any(log.abort_requested()):
            raise AbortRequested("stopped on request")

    # -- after training ----------------------------------------------------------------------------------------

    def hand_over(self, log: JobLog) -> None:
        """After the encoder's epochs, and halfway from there to the end: latents by Gauss-Newton, not step by step."""
        if self.recipe.latents != "both" or not self.recipe.refine or self.epoch == self.epochs:
            return
        if self.epoch == self.handover:
            self.encode_all(log)
        if self.epoch in (self.handover, (self.handover + self.epochs + 1) // 2):
            self.refine(log, self.recipe.refine)
            for moment in (self.table.first, self.table.second, self.table.visits):
                moment.zero_()

    @torch.no_grad()
    def refine(self, log: JobLog, iterations: int) -> torch.Tensor:  # -> (N,) log-likelihood
        """Maximum a posteriori latents and Laplace widths of all particles, in row order, shared among the ranks."""
        self.model.eval()
        table, r = self.table, self.ranks
        active = posterior.active_dimensions(table.mean, table.log_variance)
        likelihood = torch.zeros(self.problem.count, device=self.device)
        values = torch.zeros_like(table.values)
        embedding = self.model.embed()
        weight = self.weight(1.0)
        each = max(1, 160 // (len(active) + 1)) if self.device.type == "cuda" else 8
        rows_of_rank = torch.arange(r.rank, self.problem.count, r.world, device=self.device)
        done = 0
        for rows in rows_of_rank.split(each):
            image = torch.fft.rfft2(self.problem.feed.get(rows), norm="ortho")
            transfer = ctf(self.problem.ctf[rows], self.box)
            start = table.mean[rows]
            first, _ = self.render(start, rows, embedding)
            first = torch.fft.rfft2(first, norm="ortho") * transfer
            scale = torch.ones(len(rows), device=self.device)
            if self.recipe.scale_prior:
                scale = losses.image_scale(first, image, weight, self.recipe.scale_prior)
            transfer = transfer * scale[:, None, None]

            def spectra(z: torch.Tensor, rows: torch.Tensor = rows, transfer: torch.Tensor = transfer) -> torch.Tensor:
                batch, many, zdim = z.shape
                repeated = rows.repeat_interleave(many)
                images, _ = self.render(z.reshape(-1, zdim), repeated, embedding)
                return torch.fft.rfft2(images, norm="ortho").unflatten(0, (batch, many)) * transfer[:, None]

            mean, log_variance, rows_likelihood = posterior.gauss_newton(
                spectra, image, weight, start, active, max(self.recipe.beta, 1e-3), iterations
            )
            values[rows] = torch.cat([mean, log_variance], dim=1)
            likelihood[rows] = rows_likelihood
            done += len(rows)
            log.progress("refine latents", done * r.world, self.problem.count)
        r.sum_(values)
        r.sum_(likelihood)
        table.values.copy_(values)
        return likelihood

    def teach_encoder(self, log: JobLog, epochs: int, batch: int = 256, rate: float = 3e-4) -> None:
        """Regress the encoder on the latents (likelihood of each mean under the encoder's posterior), on rank 0."""
        encoder = self.model.network.encoder
        batch = min(batch, self.problem.count)
        if self.ranks.rank == 0 and batch > 1:
            encoder.train()
            optimiser = torch.optim.AdamW(encoder.parameters(), lr=rate, fused=True)
            steps, done = epochs * (self.problem.count // batch), 0
            for epoch in range(epochs):
                order = np.random.default_rng([self.options.seed, epoch, 7]).permutation(self.problem.count)
                for rows, images in self.problem.feed.batches(order, batch):
                    images = self.problem.feed.get(rows) if images is None else images
                    mean, log_variance = encoder(self.encoder_view(images))
                    log_variance = log_variance.clamp(*posterior.LOG_VARIANCE_RANGE)
                    target = self.table.values[rows]
                    spread = (target[:, : self.table.zdim] - mean).square() + target[:, self.table.zdim :].exp()
                    loss = 0.5 * (spread * (-log_variance).exp() + log_variance).mean()
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    done += 1
                    log.progress("teach the encoder", done, steps, "steps")
        self.ranks.broadcast(list(encoder.state_dict().values()))

    @torch.no_grad()
    def encode_all(self, log: JobLog, batch: int = 1024) -> None:
        """Latents of all particles from the encoder, in row order."""
        self.model.eval()
        r = self.ranks
        values = torch.zeros_like(self.table.values)
        for rows in torch.arange(r.rank, self.problem.count, r.world).split(batch):
            mean, log_variance = self.model.network.encoder(self.encoder_view(self.problem.feed.get(rows)))
            values[rows.to(self.device)] = torch.cat([mean, log_variance], dim=1)
            log.progress("encode", int(rows[-1]) + 1, self.problem.count)
        r.sum_(values)
        self.table.values.copy_(values)

    # -- checkpoints -------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything needed to go on as if never interrupted: plain tensors and numbers."""
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "epoch": self.epoch, "step_in_epoch": self.step_in_epoch, "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(), "table": self.table.state(), "noise_power": self.noise_power,
            "residual_power": self.residual_power, "residual_count": self.residual_count, "rng": rng,
            "bank": self.bank if self.bank is not None else torch.zeros(0), "seed": self.options.seed,
            "count": self.problem.count, "batch": self.batch * self.ranks.world,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Take over :meth:`state`. Raises InputError if it belongs to other data or options."""
        for name, now in (("count", self.problem.count), ("batch", self.batch * self.ranks.world),
                          ("seed", self.options.seed)):  # fmt: skip
            if state[name] != now:
                raise InputError(f"--resume: {name}", f"must be that of the checkpoint, {state[name]}", now,
                                 "Resume with the options of the first run.")  # fmt: skip
        try:
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, ValueError) as error:
            raise InputError("--resume", "must find a checkpoint of this configuration", str(error).splitlines()[0],
                             "Use the cfg.json and Gaussians of the first run.") from error  # fmt: skip
        if self.device.type != "cuda":
            for group in self.optimiser.param_groups:
                group["lr"] = float(group["lr"])
        self.table.load(state["table"])
        for name in ("noise_power", "residual_power", "residual_count"):
            getattr(self, name).copy_(state[name])
        if self.bank is not None:
            self.bank.copy_(state["bank"])
        self.epoch, self.step_in_epoch = int(state["epoch"]), int(state["step_in_epoch"])
        torch.set_rng_state(state["rng"]["cpu"])
        if self.device.type == "cuda" and "cuda" in state["rng"]:
            torch.cuda.set_rng_state(state["rng"]["cuda"], self.device)

    def published_state(self) -> dict[str, Any]:
        """``weights.N.pkl``: the published entries, and the refined Gaussians beside them."""
        model = self.model
        state = {name: tensor.detach().cpu() for name, tensor in model.network.state_dict().items()}
        content: dict[str, Any] = {"epoch": self.epoch - 1, "model_state_dict": state}
        content["gaussians"] = {
            name: getattr(model, name).detach().cpu() for name in ("positions", "raw_density", "raw_scale")
        }
        if self.problem.movable is not None:
            content["movable"] = self.problem.movable.cpu()
        return content


def automatic_epochs(steps_per_epoch: int) -> int:
    """The manual's 20 epochs, more for small datasets: the network wants about LEAST_STEPS steps."""
    return max(USUAL_EPOCHS, min(MOST_EPOCHS, -(-LEAST_STEPS // steps_per_epoch)))


def ramp(done: torch.Tensor, start: float, end: float, full: float) -> torch.Tensor:
    """From ``start`` to ``end`` (geometrically) over the share ``full`` of training, then ``end``."""
    share = (done / full).clamp_max(1.0) if full > 0 else torch.ones_like(done)
    return start * (end / start) ** share


def window_mask_tensor(configuration: Configuration, device: torch.device) -> torch.Tensor:
    """The encoder's soft round window (D, D), or ones where the configuration switches it off."""
    if not configuration.window:
        return torch.ones(configuration.box, configuration.box, device=device)
    return torch.as_tensor(window_mask(configuration.box), dtype=torch.float32, device=device)


def load_problem(options: TrainOptions, device: torch.device, log: JobLog, stack_path: Path) -> Problem:
    """Read and check everything against each other before any work."""
    configuration = load_configuration(resolve_input(options, "cfg"))
    gaussians = load_gaussians(resolve_input(options, "point"), configuration.scale_min, configuration.scale_max)
    movable = None
    if options.mask:
        movable = load_mask(resolve_input(options, "mask"), gaussians, lambda path: read_map(path).values)
        log.message(f"{int(movable.sum())} of {len(gaussians)} Gaussians may move")
    rotations, shifts = load_poses(resolve_input(options, "pose"))
    parameters = load_ctf(resolve_input(options, "ctf"))
    stack = ImageStack.from_file(stack_path)
    box = configuration.box
    if stack.headers[0].shape[1] != box:
        raise InputError("particle_name", f"must have the configuration's box {box}", stack.headers[0].shape[1],
                         "Use the stack and cfg.json of one preprocess run.")  # fmt: skip
    for name, count in (("pose", len(rotations)), ("ctf", len(parameters))):
        if count != len(stack):
            raise InputError(name, f"must have one row for each of the {len(stack)} images", count,
                             "Use the files of one preprocess run.")  # fmt: skip
    if len(stack) < 2:
        raise InputError("particle_name", "must hold at least two images", len(stack), "Give more particles.")
    # Box and pixel size of older files are those before downsampling: the physical length is what counts.
    parameters[:, 1] *= parameters[:, 0] / box
    feed = ImageFeed(
        stack.read, len(stack), box, -1.0 if configuration.invert_contrast else 1.0, device, options.stack_in_memory,
        psutil.virtual_memory().available, lambda done: log.progress("load images", done, len(stack)),
    )  # fmt: skip
    rotation, shift, transfer = (torch.from_numpy(a).to(device) for a in (rotations, shifts, parameters))
    if movable is not None:
        movable = movable.to(device)
    return Problem(configuration, gaussians.to(device), movable, rotation, shift, transfer, feed)


def resolve_stack(options: TrainOptions) -> Path:
    """The particle stack; the manual's command lines leave its ending out."""
    if Path(options.particle_name).suffix in (".mrcs", ".mrc"):
        return resolve_input(options, "particle_name")
    return resolve_input(options.model_copy(update={"particle_name": options.particle_name + ".mrcs"}), "particle_name")


def run(options: TrainOptions, log: JobLog) -> None:
    """Train as ``options`` say; results and events go to the log's directory."""
    ranks = distributed()
    device = choose_device(options.device, ranks.local_rank)
    if options.threads:
        torch.set_num_threads(options.threads)
    out = log.directory
    if not options.resume:
        refuse_existing(out, [STATE, "weights.0.pkl"], options.overwrite)
    stack_path = resolve_stack(options)
    with contextlib.ExitStack() as cleanup:
        if options.scratch_dir:
            stack_path = cleanup.enter_context(scratch_copy(stack_path, Path(options.scratch_dir), ranks.local_rank))
        problem = load_problem(options, device, log, stack_path)
        recipe = choose_recipe(options)
        log.message(
            f"{problem.count} images of {problem.configuration.box} px, {len(problem.gaussians)} Gaussians, "
            f"{recipe.latents} latents, images kept on {problem.feed.place}, {ranks.world} x {device}"
        )
        with gpu_memory_advice(options.batch):
            train(Trainer(problem, recipe, options, device), log)


def train(trainer: Trainer, log: JobLog) -> None:
    """The loop: epochs with a checkpoint each, then the latents of all particles."""
    options, recipe, out, main = trainer.options, trainer.recipe, log.directory, trainer.ranks.rank == 0
    if options.resume and (out / STATE).exists():
        trainer.restore(torch.load(out / STATE, map_location="cpu", weights_only=True))
        log.message(f"going on from epoch {trainer.epoch}, step {trainer.step_in_epoch}")
    else:
        trainer.estimate_noise()
    while trainer.epoch < trainer.epochs:
        try:
            trainer.run_epoch(log)
        except AbortRequested:
            if main:
                save_checkpoint(trainer.state(), out / STATE)
            raise
        trainer.hand_over(log)
        if main:
            save_checkpoint(trainer.state(), out / STATE)
            path = out / f"weights.{trainer.epoch - 1}.pkl"
            save_checkpoint(trainer.published_state(), path)
            log.artifact("checkpoint", path, f"network after epoch {trainer.epoch}", epoch=trainer.epoch)
    extra: dict[str, np.ndarray] = {}
    if recipe.latents == "encoder":
        trainer.encode_all(log)
    else:
        if recipe.refine:
            extra["log_likelihood"] = trainer.refine(log, recipe.refine).cpu().numpy()
        trainer.teach_encoder(log, 2)
    if main:
        weights = out / f"weights.{trainer.epochs - 1}.pkl"
        save_checkpoint(trainer.published_state(), weights)
        latents = out / f"weights.{trainer.epochs - 1}.output.pkl"
        table = trainer.table
        save_latents(latents, table.mean.cpu().numpy(), table.log_variance.cpu().numpy(), **extra)
        write_gaussians(trainer.model.gaussians, out / "point_cloud.ply")
        noise = trainer.noise_power.cpu().numpy().tolist()
        write_atomically(out / "noise_spectrum.json", str(noise))
        log.artifact("checkpoint", weights, "trained network", final=True)
        log.artifact("latents", latents, "latents of all particles")
        log.artifact("gaussians", out / "point_cloud.ply", "refined consensus Gaussians")
