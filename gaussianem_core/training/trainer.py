"""The state of a training and one step of it: optimisers, latents, schedule, and the graph that a step is captured in.

A step takes everything from buffers on the device and never asks the host, so that on CUDA it is captured once and
replayed as one CUDA graph. What is small and waits for nothing runs in branches of it (``runtime.device.Aside``).
Several processes train alike: each takes its part of every batch, gradients are summed in one buffer, and all then make
the same update.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gaussianem_core.errors import AbortRequested, InputError
from gaussianem_core.imaging.fourier import shell_sizes
from gaussianem_core.imaging.likelihood import RESIDUAL_IMAGES
from gaussianem_core.imaging.window import window_mask
from gaussianem_core.job.events import JobLog
from gaussianem_core.model.configuration import Configuration
from gaussianem_core.model.gauge import Gauge
from gaussianem_core.model.gaussians import Gaussians, scale_densities
from gaussianem_core.model.network import Prepared
from gaussianem_core.options import TrainOptions
from gaussianem_core.runtime.device import Aside, distributed
from gaussianem_core.runtime.streams import stream, torch_seed, torch_stream
from gaussianem_core.training import latent_posterior, mixture_prior, nuisances, objective, regularisers
from gaussianem_core.training.adam import Adam
from gaussianem_core.training.corrections import Corrections, mean_contrast, rescaled
from gaussianem_core.training.forward_model import ForwardModel, Views
from gaussianem_core.training.junk import Junk
from gaussianem_core.training.mixture_prior import Latents
from gaussianem_core.training.noise_model import NoiseModel
from gaussianem_core.training.objective import TERMS
from gaussianem_core.training.problem import Problem
from gaussianem_core.training.recipe import Recipe, automatic_epochs
from gaussianem_core.training.schedule import RATES, ramp
from gaussianem_core.training.step_table import StepTable

LATENT_SPREAD, LATENT_WIDTH = 0.3, 0.5  # free latents start as N(0, 0.3^2) with posterior width 0.5
BANK = 6400  # latents that the latent neighbour term looks at (published)
WARMUP_SHARE = 0.05  # the warm-up never takes more of the training than this
CAPTURE_AFTER = 3  # eager steps before a CUDA graph is captured: kernels compile and buffers settle
FIRST_REPORT = 50  # steps, of several processes
REPORT_SECONDS = 0.5
STATE_ENTRIES = (
    "epoch",
    "step_in_epoch",
    "model",
    "optimiser",
    "table",
    "noise_power",
    "encoder_optimiser",
    "residual_power",
    "residual_count",
    "rng",
    "bank",
    "seed",
    "count",
    "batch",
    "epochs",
    "encoder_epochs",
    "active",
    "moves",
    "changes",
    "samples",
    "population",
    "corrections",
    "gauge",
    "anchor",
    "anchor_width",
)
"""Names of the entries of :meth:`Trainer.state`."""


def new_forward_model(problem: Problem, recipe: Recipe, options: TrainOptions) -> ForwardModel:
    """The network and Gaussians that a training of ``recipe`` starts with."""
    return ForwardModel(
        problem.configuration,
        problem.gaussians,
        problem.movable,
        backend=options.projector,
        precision=options.precision,
        head_scale=recipe.head_scale,
        learn_gaussians=recipe.lr_density > 0,
        seed=options.seed,
    )


class Trainer:
    """One training: build it, then ``run_epoch`` until ``epoch`` reaches ``epochs``.

    Parameters
    ----------
    forward, noise : learnt in place.
    latents, corrections : to start from, for a recipe that draws latents and nuisances from their posteriors.
    consensus : the Gaussians that the prior is about; None takes those of the consensus map.

    Raises
    ------
    InputError : a particle has several images, and the recipe's latents are not "linear".
    """

    def __init__(
        self,
        problem: Problem,
        recipe: Recipe,
        options: TrainOptions,
        forward: ForwardModel,
        noise: NoiseModel,
        latents: Latents | None = None,
        corrections: Corrections | None = None,
        consensus: Gaussians | None = None,
    ) -> None:
        self.problem, self.recipe, self.options = problem, recipe, options
        self.forward, self.noise, self.device = forward, noise, problem.device
        self.box = forward.box
        self.ranks = distributed()
        if recipe.latents != "linear" and not problem.group.single:
            raise InputError(
                "--latents",
                "must be linear for particles of several images: the others learn each image's latent by itself",
                recipe.latents,
                "Leave --latents and --recipe out.",
            )
        self.batch = min(options.batch, problem.count // self.ranks.world)
        self.steps_per_epoch = problem.count // (self.batch * self.ranks.world)
        self.epochs = options.epoch or automatic_epochs(recipe, self.steps_per_epoch)
        self.encoder_epochs = min(max(1, round(recipe.encoder_share * self.epochs)), self.epochs)
        self.encode_now = recipe.latents in ("encoder", "both")
        self.latents_sampled = (
            recipe.latents == "linear"
        )  # latents are drawn from their posteriors and follow no gradient
        self.table = latent_posterior.new_table(
            problem.group.count,
            forward.zdim,
            torch_stream(options.seed, "latent table"),
            self.device,
            LATENT_SPREAD,
            LATENT_WIDTH,
            free=not self.latents_sampled,
        )
        self.population: mixture_prior.Population | None = None
        self.active = torch.ones(forward.zdim, dtype=torch.bool, device=self.device)  # the others stay at the prior
        pairs = regularisers.find_pairs(problem.gaussians.positions)
        order = stream(options.seed, "neighbour pairs").permutation(len(pairs.first))
        self.pairs = pairs.subset(torch.from_numpy(order).to(self.device))
        self.anchor = regularisers.find_anchor(consensus or problem.gaussians)
        self.window = encoder_window(problem.configuration, self.device)
        self.epoch, self.step_in_epoch = 0, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._eager = 0
        # What a step computes beside the rest: the decoder's weights, what it knows of the images, and the priors.
        self.beside = (Aside(self.device), Aside(self.device), Aside(self.device))
        if self.device.type == "cuda" and hasattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch"):
            torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)  # these streams are joined
        self._make_optimisers()
        self._make_buffers()
        self.corrections = corrections or self._no_corrections()
        if latents is not None:
            self.set_latents(latents, self.corrections)

    @property
    def total_steps(self) -> int:
        """Steps of all epochs together."""
        return self.steps_per_epoch * self.epochs

    # -- set-up ------------------------------------------------------------------------------------------------

    def _make_optimisers(self) -> None:
        """Adam for decoder and Gaussians, and one for the encoder, which rests once the latents are free.

        The gradients that processes share lie in one buffer, decoder and Gaussians, then the batch's latents: one sum
        over GPUs serves all.
        """
        forward, device = self.forward, self.device
        self.rates = torch.zeros(len(RATES), device=device)
        encoder = list(forward.network.encoder.parameters()) if self.encode_now else []
        groups: list[dict[str, Any]] = [
            {"params": forward.decoder_parameters(), "rate": "network"},
            {"params": [p for p in (forward.raw_density, forward.raw_scale) if p.requires_grad], "rate": "density"},
            {"params": [p for p in (forward.positions,) if p.requires_grad], "rate": "position"},
        ]
        groups = [group for group in groups if group["params"]]
        decoder = [p for group in groups for p in group["params"]]
        rows = 0 if self.latents_sampled else self.ranks.world * self.batch
        sizes = [*(p.numel() for p in decoder), rows * 2 * forward.zdim]
        self.gradient = torch.zeros(sum(sizes), device=device)
        *pieces, last = self.gradient.split(sizes)
        self.latent_gradient = last.view(rows, 2 * forward.zdim)
        self.learnt = [(p, piece.view_as(p)) for p, piece in zip(decoder, pieces)]
        self.encoder_parameters = encoder
        # Nothing is learnt where no component stands above the noise and the recipe leaves the Gaussians as they are.
        self.optimiser = self._adam(groups) if groups else None
        self.encoder_optimiser = self._adam([{"params": encoder, "rate": "network"}]) if encoder else None

    def _adam(self, groups: list[dict[str, Any]]) -> Adam:
        cuda = self.device.type == "cuda"
        for group in groups:
            group["lr"] = torch.zeros((), device=self.device) if cuda else 0.0
        return Adam(groups, fused=True)

    def _make_buffers(self) -> None:
        box, device, zdim = self.box, self.device, self.forward.zdim
        self.residual_power = torch.zeros_like(self.noise.power)
        self.residual_count = torch.zeros((), device=device)
        rows = self.batch * self.ranks.world
        self.order = torch.zeros(self.steps_per_epoch, rows, dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        drawn = self.recipe.pairs if self.recipe.pairs < len(self.pairs.first) else 0
        self.pair_numbers = torch.arange(drawn, device=device)  # of the epoch's first step
        self.images = torch.zeros(self.batch, box, box, device=device)
        self.sums = torch.zeros(len(TERMS) + 1, device=device)
        particles = self.problem.group.count
        self.samples = torch.zeros(mixture_prior.SAMPLES if self.latents_sampled else 0, particles, zdim, device=device)
        self.epoch_latents = torch.zeros(
            particles if self.latents_sampled else 0, zdim, device=device
        )  # those of the epoch
        self.bank = torch.randn(BANK, zdim, device=device) if self.recipe.w_latent else None
        # How the particles are seen in this epoch: their nuisances are samples too.
        views = self.problem.views
        self.epoch_views = Views(*(value.clone() for value in views)) if self.latents_sampled else views
        self.epoch_contrast = torch.ones(self.problem.count if self.latents_sampled else 0, device=device)
        self.image_weight = torch.ones_like(self.epoch_contrast)
        own = torch.zeros(self.batch, dtype=torch.long, device=device)
        shapes = {name: tuple(value.shape) for name, value in self.entries(own).items()}
        shapes |= {"rates": (len(RATES),), "shell_weight": tuple(self.noise.power.shape)}
        self.steps = StepTable(self.steps_per_epoch, shapes, device)

    def _no_corrections(self) -> Corrections:
        """Everything as it is given, and no junk."""
        count, device = self.problem.count if self.latents_sampled else 0, self.device
        zeros = torch.zeros(count, device=device)
        junk = Junk(zeros, zeros, torch.zeros((), device=device))
        samples = torch.zeros(len(self.samples), count, nuisances.COUNT, device=device)
        widths = nuisances.first_widths(nuisances.KINDS, device)
        return Corrections(torch.zeros(count, nuisances.COUNT, device=device), samples, widths, junk)

    def set_latents(self, latents: Latents, corrections: Corrections) -> None:
        """Train with these latents and nuisances from now on; densities and contrasts are scaled to a mean contrast of
        1."""
        self.corrections = corrections
        if corrections.widths[nuisances.CONTRAST] > 0:
            factor = mean_contrast(corrections)
            self.corrections = rescaled(corrections, factor)
            with torch.no_grad():
                self.forward.raw_density.copy_(scale_densities(self.forward.gaussians, factor).raw_density)
                middle = scale_densities(replace(self.forward.gaussians, raw_density=self.anchor.middle[:, 0]), factor)
                self.anchor.middle[:, 0] = middle.raw_density
        self.image_weight.copy_(1 - corrections.junk.probability)
        self.table.values.copy_(latents.values)
        self.samples.copy_(latents.samples)
        self.active.copy_(latents.active)
        self.population = latents.population

    @property
    def refinements(self) -> set[int]:
        """Numbers of the epochs before which all latents are refined: they divide those with free latents equally."""
        first = self.encoder_epochs if self.recipe.latents == "both" else 0
        parts = 1 + self.recipe.refinements
        return {first + (self.epochs - first) * part // parts for part in range(parts)} - {0}

    # -- one step ----------------------------------------------------------------------------------------------

    def rate(self, name: str) -> torch.Tensor:
        """The present step's value () of one of RATES."""
        return self.rates[RATES.index(name)]

    def entries(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:  # (..., B)
        """What a step takes of its images ``rows``, by name.

        (..., B, *): fields of Views, and where latents and nuisances are sampled, the factor of each image's signal,
        the root of the weight of its squared error, and its particle's latent, with an anchor that of the centre of
        the latent space after the last one's. (...): ``counted``, mean weight of the first ones, which the residual
        is measured from.
        """
        found = {name: value[rows] for name, value in self.epoch_views._asdict().items()}
        if not self.latents_sampled:
            return found | {"counted": torch.ones(rows.shape[:-1], device=self.device)}
        weight = self.image_weight[rows]
        root = weight.sqrt()
        z = self.epoch_latents[self.problem.group.particle[rows]]
        z = torch.nn.functional.pad(z, (0, 0, 0, int(self.recipe.anchor > 0)))
        counted = weight[..., :RESIDUAL_IMAGES].mean(-1)
        return found | {"root": root, "factors": self.epoch_contrast[rows] * root, "z": z, "counted": counted}

    def see(self, images: torch.Tensor, row: dict[str, torch.Tensor]) -> objective.Seen:  # (B, D, D)
        """What a step knows of ``images`` before it renders, from its ``row``: their :meth:`entries`, and
        ``shell_weight`` (D//2+1,), the inverse noise power."""
        views = Views(*(row[name] for name in Views._fields))
        observed = objective.observe(images, row.get("root"), self.recipe.likelihood)
        return objective.Seen(observed, views, row.get("factors"), row["counted"], row["shell_weight"])

    def losses(
        self, seen: objective.Seen, z: torch.Tensor, kl: torch.Tensor | None = None
    ) -> objective.Terms:  # B images, (B, zdim), (B, zdim)
        """The terms of the loss of images at latents ``z`` drawn from their posteriors (see ``objective``), with an
        anchor (B + 1, zdim), the last one 0; ``kl``: divergences of these posteriors from the prior, nats."""
        recipe, forward = self.recipe, self.forward
        weights, before, priors = self.beside
        drawn, (of_z, of_gaussian, bias) = None, forward.network.first_layer()
        with weights.fork():
            decoder = forward.network.pair_decoder(forward.precision)
        with before.fork(z):
            of_z = torch.nn.functional.linear(z, of_z, bias)
        with priors.fork():
            sigmas = forward.gaussians.sigmas.expand(len(seen.observed), -1)
            if len(self.pair_numbers):  # in turn, so that a step that is captured draws no random numbers
                drawn = torch.add(self.pair_numbers, self.position, alpha=recipe.pairs) % len(self.pairs.first)
        embedding = forward.embed()
        of_gaussian = torch.nn.functional.linear(embedding, of_gaussian)
        weights.join(decoder)
        priors.join(sigmas)
        before.join(seen, of_z)  # where the images were looked at
        # The anchor holds the structure at the centre of the latent space, one row more. The batch's mean in its place
        # would vary with the latents, and its gradient would drown what the images say about the motion.
        deformed = forward.deform_prepared(Prepared(of_z, of_gaussian, decoder), centre=recipe.anchor > 0)
        projections = forward.project(deformed.positions, deformed.densities, seen.views, sigmas)
        priors.fork(deformed, embedding)
        if recipe.likelihood == "l1":
            terms = objective.published_terms(seen, projections, kl, self.rate("beta"))
        else:
            terms, residual = objective.data_terms(seen, projections, kl, self.rate("beta"), recipe)
            with before.fork(residual):
                self.residual_power += residual.sum(0)
                self.residual_count += seen.counted
        # Last, so that their gradients come first, while those of the projections are waited for.
        with priors:
            changes = objective.Changes(deformed, embedding, self.pairs, drawn)
            nats = self.problem.count * self.box**2
            terms |= objective.prior_terms(changes, recipe, self.anchor, nats)
        priors.join(list(terms.values()))
        if self.bank is not None:
            late = float(self.epoch >= 2)
            terms["latent"] = (recipe.w_latent * late, regularisers.latent_neighbour_term(z, self.bank.clone()))
            self.bank.copy_(torch.cat([self.bank[len(z) :], z.detach()]))
        return terms

    def _step(self, gathered: bool) -> None:
        """One update from the buffers alone, without host synchronisation: what a CUDA graph replays."""
        ranks, zdim = self.ranks, self.forward.zdim
        mine = slice(ranks.rank * self.batch, (ranks.rank + 1) * self.batch)
        before = self.beside[1]
        with before.fork():
            row = self.steps.row(self.position)
            self.rates.copy_(row["rates"])
            all_rows = self.order.index_select(0, self.position)[0]
            rows = all_rows[mine]
            stack = self.problem.feed.stack
            images = self.images if gathered or stack is None else stack[self.problem.feed.places(rows)].float()
            seen, z = self.see(images, row), row.get("z")
        if z is None:
            before.join(images, all_rows)
        if self.encode_now:
            # Every process encodes the whole batch: batch norm then sees what one process would see, and instead of
            # the encoder's many gradients only those of the latents have to be shared.
            encoded = torch.cat(self.forward.network.encoder(self.encoder_view(ranks.gather(images))), dim=1)
            self.table.values.index_copy_(0, all_rows, encoded.detach())
        parameters = [p for p, _ in self.learnt]
        if z is not None:
            terms, latent = self.losses(seen, z), []
        else:
            noise = torch.randn(ranks.world * self.batch, zdim, device=self.device)[mine]
            latent = [self.table.values[rows].detach().requires_grad_()]
            mean, log_variance = latent[0].split(zdim, dim=1)
            drawn = mean + noise * (0.5 * log_variance).exp()
            terms = self.losses(seen, drawn, regularisers.kl_divergence(mean, log_variance))
        with before.fork(list(terms.values())):
            self.sums[:-1] += objective.values(terms, self.device)
            self.sums[-1] += 1
            self.position += 1
        gradients = objective.gradients(terms, [*parameters, *latent], self.device)
        latent_gradient = gradients.pop() if latent else None
        if ranks.world > 1 and self.gradient.numel():
            if latent_gradient is not None:
                self.latent_gradient.zero_()
                self.latent_gradient[mine] = latent_gradient
            # Laid out alike, they go in one kernel; one by one they take 45 microseconds of a step of 800.
            torch._foreach_copy_(
                [shared for _, shared in self.learnt], [gradient.contiguous() for gradient in gradients]
            )
            ranks.mean_(self.gradient)
            gradients = [shared for _, shared in self.learnt]
            latent_gradient = None if latent_gradient is None else self.latent_gradient
        for p, gradient in zip(parameters, gradients):
            # The fused optimiser on CUDA wants its parameter's strides; parts of a larger gradient have others.
            p.grad = gradient.contiguous().as_strided(p.size(), p.stride())
        if self.encode_now:
            found = torch.autograd.grad(encoded, self.encoder_parameters, latent_gradient)
            for p, gradient in zip(self.encoder_parameters, found):
                p.grad = gradient
        if self.optimiser is not None:
            self._apply(self.optimiser)
        if self.encode_now:
            assert self.encoder_optimiser is not None
            self._apply(self.encoder_optimiser)
        elif latent_gradient is not None:
            self.table.step(all_rows, latent_gradient, self.rate("latent"))
        before.join()

    def _apply(self, optimiser: Adam) -> None:
        for group in optimiser.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].copy_(self.rate(group["rate"]))
            else:
                group["lr"] = float(self.rate(group["rate"]))
        optimiser.step(self.beside)

    def encoder_view(self, images: torch.Tensor) -> torch.Tensor:
        """Input of the encoder: images (B, D, D) times the window, divided by the dataset's standard deviation."""
        return images * self.window / self.problem.configuration.std

    def step(self, images: torch.Tensor | None) -> None:
        """One update. ``images``: (B, D, D), or None where the stack is on the device. On CUDA the step is captured as
        a graph after CAPTURE_AFTER calls, and replayed from then on."""
        if images is not None:
            self.images.copy_(images, non_blocking=True)
        if self._graph is not None:
            self._graph.replay()
        elif self.device.type != "cuda":
            self._step(images is not None)
        else:
            # Capture wants its warm-up on a side stream; what runs beside it (see Aside) must not hold it up.
            stream = torch.cuda.Stream(self.device, priority=-1)
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream):
                self._step(images is not None)
            torch.cuda.current_stream(self.device).wait_stream(stream)
            self._eager += 1
            if self._eager >= CAPTURE_AFTER:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=stream):
                    self._step(images is not None)
                self._graph = graph

    # -- epochs ------------------------------------------------------------------------------------------------

    def begin_epoch(self) -> None:
        """Prepare the present epoch: order of the images, rates, and the samples of latents and nuisances.

        All depend on seed and epoch alone.
        """
        epoch, recipe = self.epoch, self.recipe
        encode = recipe.latents == "encoder" or (recipe.latents == "both" and epoch < self.encoder_epochs)
        order = stream(self.options.seed, "order of training", epoch).permutation(self.problem.count)
        self.order.copy_(torch.from_numpy(order[: self.order.numel()]).view_as(self.order))
        step = torch.arange(self.steps_per_epoch, dtype=torch.float64) + epoch * self.steps_per_epoch
        done = step / self.total_steps
        warm = min(self.options.warmup_steps, int(WARMUP_SHARE * self.total_steps) + 1)
        rise = ((step + 1) / max(warm, 1)).clamp_max(1.0)
        fall = recipe.final_rate + (1 - recipe.final_rate) * 0.5 * (1 + torch.cos(torch.pi * done))
        columns = {
            "network": recipe.lr * rise * fall,
            "density": recipe.lr_density * rise * fall,
            "position": recipe.lr_position * rise * fall,
            "latent": recipe.lr_latent * fall,
            "beta": recipe.beta * ramp(done, recipe.beta_start, 1.0, recipe.beta_full),
            "band": ramp(done, recipe.band_start, 0.5 + 4 / self.box, recipe.band_full),
        }
        rates = torch.stack([columns[name] for name in RATES], dim=1).to(self.device, torch.float32)
        if self.latents_sampled:
            number = epoch % len(self.samples)
            q = self.corrections.samples[number]
            self.epoch_latents.copy_(self.samples[number])
            for value, now in zip(self.epoch_views, nuisances.corrected(self.problem.views, q)):
                value.copy_(now)
            self.epoch_contrast.copy_(1 + q[:, nuisances.CONTRAST])
        drawn = len(self.pair_numbers)
        torch.arange(drawn, out=self.pair_numbers).add_(epoch * self.steps_per_epoch * drawn)
        mine = self.order[:, self.ranks.rank * self.batch : (self.ranks.rank + 1) * self.batch]
        for name, value in self.entries(mine).items():
            self.steps.set(name, value)
        self.steps.set("rates", rates)
        self.steps.set("shell_weight", self.noise.shell_weight(rates[:, RATES.index("band"), None]))
        if encode != self.encode_now or (self.bank is not None and epoch == 2):
            # What a captured graph does is fixed: the latents' source, and the latent term's weight.
            self.encode_now, self._graph, self._eager = encode, None, 0
        self.forward.train()

    def run_epoch(self, log: JobLog) -> None:
        """Run the present epoch from ``step_in_epoch`` on, then update the noise.

        Raises AbortRequested at a safe point if a stop was asked for, InputError if the loss or a weight is not finite.
        """
        self.begin_epoch()
        ranks = self.ranks
        if self.step_in_epoch == 0:
            torch.manual_seed(torch_seed(self.options.seed, "training", self.epoch))
            self.residual_power.zero_()
            self.residual_count.zero_()
        self.position.fill_(self.step_in_epoch)
        self.sums.zero_()
        mine = self.order[:, ranks.rank * self.batch : (ranks.rank + 1) * self.batch].cpu().numpy()
        reported, since, asked = time.time(), self.step_in_epoch, self.step_in_epoch + FIRST_REPORT
        for _, images in self.problem.feed.batches(mine[self.step_in_epoch :].reshape(-1), self.batch):
            self.step(images)
            self.step_in_epoch += 1
            # All processes must ask the same question at the same step.
            due = self.step_in_epoch == asked if ranks.world > 1 else time.time() - reported > REPORT_SECONDS
            if due or self.step_in_epoch == self.steps_per_epoch:
                sums = self.sums.cpu().double().numpy()  # waits for the device: the rate is true
                self.sums.zero_()
                now = time.time()
                seconds = max(now - reported, 1e-6) / (self.step_in_epoch - since)  # clocks are set now and then
                self.report(log, sums, self.batch * ranks.world / seconds)
                reported, since = now, self.step_in_epoch
                seconds = float(ranks.mean(torch.tensor(seconds, device=self.device)))
                asked = self.step_in_epoch + max(1, round(REPORT_SECONDS / seconds))
        if self.recipe.likelihood == "squared":
            power = ranks.mean(self.residual_power / self.residual_count.clamp_min(1e-6))
            self.noise.update(power)
        self.epoch, self.step_in_epoch = self.epoch + 1, 0

    def report(self, log: JobLog, sums: np.ndarray, rate: float) -> None:
        """Log the mean terms since the last report, and ask whether to stop.

        ``sums`` (len(TERMS) + 1,): of the values of TERMS, then the number of steps; ``rate``: images a second.

        Raises InputError if the loss or a weight is not finite, AbortRequested if a stop was asked for.
        """
        means = {name: value / max(sums[-1], 1) for name, value in zip(TERMS, sums[:-1])}
        # The relu of a kernel makes 0 of NaN, so that weights may be lost while the loss stays finite.
        weights = float(torch.nn.utils.get_total_norm(list(self.forward.parameters())))
        for value, rule in ((means["loss"], "must keep a finite loss"), (weights, "must keep finite weights")):
            if not np.isfinite(value):
                remedy = "Lower --lr, or check the images and CTF for outliers."
                raise InputError("training", rule, value, remedy)
        step = self.epoch * self.steps_per_epoch + self.step_in_epoch
        shown = {name: value for name, value in means.items() if value != 0.0}
        if self.recipe.likelihood == "squared":
            # The data term is in units of the noise as measured last: the share of the images' power that is left
            # unexplained is what can be compared over epochs.
            residual = self.residual_power / self.residual_count.clamp_min(1e-6) * shell_sizes(self.box, self.device)
            shown["unexplained"] = float(residual[1:].sum()) / self.noise.image_power
        epoch = step / self.steps_per_epoch
        log.metric("train", step, epoch, **shown, lr=float(self.rate("network")), images_per_second=rate)
        images = self.batch * self.ranks.world
        log.progress("train", step * images, self.total_steps * images, every=0.0)
        if self.ranks.any(log.abort_requested()):
            raise AbortRequested("stopped on request")

    # -- state -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything needed to go on as if never interrupted: plain tensors and numbers."""
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "model": self.forward.state_dict(),
            "optimiser": self.optimiser.state_dict() if self.optimiser else {},
            "table": self.table.state(),
            "noise_power": self.noise.power,
            "encoder_optimiser": self.encoder_optimiser.state_dict() if self.encoder_optimiser else {},
            "residual_power": self.residual_power,
            "residual_count": self.residual_count,
            "rng": rng,
            "bank": self.bank if self.bank is not None else torch.zeros(0),
            "seed": self.options.seed,
            "count": self.problem.count,
            "batch": self.batch * self.ranks.world,
            "epochs": self.epochs,
            "encoder_epochs": self.encoder_epochs,
            "active": self.active,
            "moves": self.forward.moves,
            "samples": self.samples,
            "population": list(self.population or ()),
            "changes": self.forward.changes,
            "corrections": [*self.corrections[:3], *self.corrections.junk],
            "gauge": list(self.forward.gauge or ()),
            "anchor": self.anchor.middle,
            "anchor_width": self.anchor.width,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state`, with more epochs if the options ask for them; free latents stay free.

        Raises InputError if it belongs to other data or options, or has more epochs behind it than are asked for.
        """
        own = {"count": self.problem.count, "batch": self.batch * self.ranks.world, "seed": self.options.seed}
        for name, now in own.items():
            if state[name] != now:
                raise InputError(
                    f"--resume: {name}",
                    f"must be that of the checkpoint, {state[name]}",
                    now,
                    "Resume with the options of the first run.",
                )
        if self.options.epoch is None:
            self.epochs = int(state["epochs"])
        if self.epochs < state["epoch"]:
            raise InputError(
                "--epoch",
                f"must not be less than the {state['epoch']} epochs behind the checkpoint",
                self.epochs,
                "Give more, or leave it out.",
            )
        if self.epochs == state["epochs"] or state["epoch"] >= state["encoder_epochs"]:
            self.encoder_epochs = int(state["encoder_epochs"])
        try:
            self.forward.load_state_dict(state["model"])
            if self.optimiser:
                self.optimiser.load_state_dict(state["optimiser"])
            if self.encoder_optimiser:
                self.encoder_optimiser.load_state_dict(state["encoder_optimiser"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(
                "--resume",
                "must find a checkpoint of this configuration",
                str(error).splitlines()[0],
                "Use the cfg.json and Gaussians of the first run.",
            ) from error
        if state["gauge"]:
            self.forward.gauge = Gauge(*(part.to(self.device) for part in state["gauge"]))
        self.table.load(state["table"])
        for name in ("active", "samples", "residual_power", "residual_count"):
            getattr(self, name).copy_(state[name])
        self.noise.power.copy_(state["noise_power"])
        if state["population"]:
            self.population = mixture_prior.Population(*(part.to(self.device) for part in state["population"]))
        *corrections, probability, evidence, share = (part.to(self.device) for part in state["corrections"])
        mean, samples, widths = corrections
        self.corrections = Corrections(mean, samples, widths, Junk(probability, evidence, share))
        self.image_weight.copy_(1 - probability)
        self.anchor = regularisers.Anchor(state["anchor"].to(self.device), state["anchor_width"].to(self.device))
        if self.bank is not None:
            self.bank.copy_(state["bank"])
        self.epoch, self.step_in_epoch = int(state["epoch"]), int(state["step_in_epoch"])
        torch.set_rng_state(state["rng"]["cpu"])
        if self.device.type == "cuda" and "cuda" in state["rng"]:
            torch.cuda.set_rng_state(state["rng"]["cuda"], self.device)

    def published_state(self) -> dict[str, Any]:
        """Content of ``weights.N.pkl``: the published entries ``epoch`` and ``model_state_dict``, and the Gaussians,
        the mask and the gauge."""
        forward = self.forward
        state = {name: tensor.detach().cpu() for name, tensor in forward.network.state_dict().items()}
        content: dict[str, Any] = {"epoch": self.epoch - 1, "model_state_dict": state}
        content["gaussians"] = {
            name: getattr(forward, name).detach().cpu() for name in ("positions", "raw_density", "raw_scale")
        }
        if self.problem.movable is not None:
            content["movable"] = self.problem.movable.cpu()
        if forward.gauge is not None:
            content["gauge"] = {name: tensor.cpu() for name, tensor in forward.gauge._asdict().items()}
        return content


def encoder_window(configuration: Configuration, device: torch.device) -> torch.Tensor:
    """The encoder's soft round window (D, D), or ones where the configuration has no window."""
    if not configuration.window:
        return torch.ones(configuration.box, configuration.box, device=device)
    return torch.as_tensor(window_mask(configuration.box), dtype=torch.float32, device=device)
