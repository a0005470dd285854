"""Train: prepared particles -> network, refined Gaussians and the latent of every particle (method: Train).

One step: latents of the batch -> deformed Gaussians -> projections -> CTF -> likelihood of the images, plus the KL
term and the neighbour terms; then one update (see ``trainer``). The default recipe takes the first latents from a
linear model of the motion (see ``linear_model``); from then on they are measured again against the images every few
epochs (see ``latent_refinement``), while decoder and Gaussians go on learning. The published recipe takes them from
the image encoder.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import time
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from gaussianem_core.errors import AbortRequested
from gaussianem_core.imaging.fourier import fourier_resample
from gaussianem_core.io.checkpoint import load_tensors, save_checkpoint
from gaussianem_core.io.latents import save_latents
from gaussianem_core.io.mrc import read_map
from gaussianem_core.io.particle_table import column_names, read_particle_column
from gaussianem_core.job.events import JobLog, refuse_existing
from gaussianem_core.job.input_paths import resolve_input
from gaussianem_core.model.configuration import load_configuration
from gaussianem_core.model.detail import CONSENSUS_MAP, VOLUMES, missing_detail
from gaussianem_core.model.gaussians import write_gaussians
from gaussianem_core.model.trained_model import TrainedModel
from gaussianem_core.options import TrainOptions
from gaussianem_core.runtime.device import choose_device, distributed, gpu_memory_advice
from gaussianem_core.runtime.files import remove_replaced, write_atomically, write_json
from gaussianem_core.runtime.scratch import scratch_copy
from gaussianem_core.training import (
    corrections,
    joint_posterior,
    latent_refinement,
    linear_fit,
    noise_model,
    teaching,
)
from gaussianem_core.training.forward_model import render_first
from gaussianem_core.training.problem import Problem, load_problem, resolve_stack
from gaussianem_core.training.recipe import Recipe, choose_recipe, without_components
from gaussianem_core.training.trainer import STATE_ENTRIES, Trainer, new_forward_model

STATE = "training_state.pt"
WEIGHTS, REFINED = "weights.*.pkl", "point_cloud.ply"
HALVES = ("half1", "half2")
PROBE_LATENTS, PROBE_IMAGES = 2000, 4

# What was chosen, in words.
LATENTS = {
    "linear": "from a linear model, with a population estimated from all",
    "encoder": "from the encoder",
    "free": "free for each particle",
    "both": "from the encoder, then refined one by one",
}
# Usual shares of a training's time by stage: latents from a linear model, going on from a checkpoint, other recipes.
LINEAR_STAGES = {
    "load images": 1,
    "linear model": 14,
    "motion or composition": 8,
    "teach the decoder": 18,
    "train": 55,
    "teach the encoder": 4,
}
LATER_STAGES = {"load images": 1, "train": 95, "teach the encoder": 4}
OTHER_STAGES = {"load images": 1, "train": 94, "encode": 5}
WHOLE_PART = 0.5  # of the time, where the half sets are trained after the whole: each has half the images
WAITING_SHARE, FASTER_IMAGES = 0.2, "--scratch_dir on a faster disk, or --stack_in_memory host, would save it."
PLACES = {"gpu": "in GPU memory", "host": "in memory", "disk": "read from disk"}


def run(options: TrainOptions, log: JobLog) -> None:
    """Train as ``options`` say; results and events go to the log's directory.

    Raises InputError for data that cannot be used, results that are there already, or a checkpoint of another training
    (with ``resume``); ResourceError for too little GPU memory; AbortRequested on a request to stop.
    """
    ranks = distributed(options.device)
    device = choose_device(options.device, ranks.local_rank, options.threads, options.precision != "float32")
    out = log.directory
    if not options.resume:
        refuse_existing(out, [STATE, *(path.name for path in out.glob(WEIGHTS)), REFINED], options.overwrite)
    stack_path = resolve_stack(options)
    with contextlib.ExitStack() as cleanup:
        if options.scratch_dir:
            stack_path = cleanup.enter_context(scratch_copy(stack_path, Path(options.scratch_dir), ranks.local_rank))
        recipe = choose_recipe(options)
        plan(recipe, options, log, out)
        aside = ThreadPoolExecutor(1)
        if device.type == "cuda":
            aside.submit(load_ahead, options, device)  # what it finds at fault, load_problem or the fit report
        problem = load_problem(options, device, log, stack_path)
        # The linear model waits for what it needs of it; while a graph is captured nothing else may use the GPU.
        aside.shutdown(wait=recipe.latents != "linear")
        several = "" if problem.group.single else f" of {problem.group.count:,} particles,"
        log.message(
            f"{problem.count:,} images{several} of {problem.configuration.box} px, {len(problem.gaussians):,} "
            f"Gaussians; latents {LATENTS[recipe.latents]}; images {PLACES[problem.feed.place]}; "
            f"{ranks.world} x {device}"
        )
        if not options.resume and ranks.rank == 0:
            remove_results(out)
        with gpu_memory_advice(options.batch, "--batch", "--stack_in_memory host"):
            train(problem, recipe, options, log, out)
            if options.half_sets:
                for number, (half, part) in enumerate(half_sets(options, problem, log).items()):
                    folder = out / half
                    if ranks.rank == 0:
                        folder.mkdir(exist_ok=True)
                    log.message(f"training {half} of the data, {len(part.particles)} particles, on its own")
                    plan(recipe, options, log, folder, part=1 + number)
                    train(problem.subset(part.rows), recipe, options, log, folder, part)


def load_ahead(options: TrainOptions, device: torch.device) -> None:
    """Load what the first steps of this training need: kernels that project, those of spectra, and parts of SciPy.

    The training's modules write ``scipy.spatial.cKDTree`` in full, so that these parts load here and not at the start.
    """
    configuration = load_configuration(resolve_input(options, "cfg"))
    with torch.cuda.device(device):
        image = render_first(configuration.box, configuration.scale_max, options.projector, device)
        noise = torch.ones(configuration.box // 2 + 1, device=device)
        noise_model.NoiseModel(noise, configuration.box).by_shell(image)
    for name in ("scipy.cluster.vq", "scipy.spatial"):
        importlib.import_module(name)


def plan(recipe: Recipe, options: TrainOptions, log: JobLog, out: Path, part: int = 0) -> None:
    """Report the stages that follow: of the whole data (``part`` 0) or a half set (1, 2), with results in ``out``."""
    if options.resume and (out / STATE).exists():
        stages = LATER_STAGES
    else:
        stages = LINEAR_STAGES if recipe.latents == "linear" else OTHER_STAGES
    ends = (0.0, WHOLE_PART, (1 + WHOLE_PART) / 2, 1.0) if options.half_sets else (0.0, 1.0)
    if part:
        stages = {name: share for name, share in stages.items() if name != "load images"}
    log.plan(stages, part=(ends[part], ends[part + 1]))


def remove_results(out: Path) -> None:
    """Remove the files of an earlier training in ``out``: those of later epochs would be taken for the new one's."""
    for folder in (out, *(out / half for half in HALVES)):
        remove_replaced(folder, STATE, WEIGHTS, "probes/epoch_*.npz")


class Part(NamedTuple):
    """A part of a dataset: its ``rows`` (n,), which are those of whole ``particles`` (p,), as numbers in the whole."""

    rows: np.ndarray
    particles: np.ndarray


def half_sets(options: TrainOptions, problem: Problem, log: JobLog) -> dict[str, Part]:
    """The two half sets: rlnRandomSubset of particles.star beside the data, or odd and even particles."""
    star, group = Path(options.source_dir) / "particles.star", problem.group
    particle, halves = group.particle.cpu().numpy(), None
    if star.exists() and "rlnRandomSubset" in column_names(star):
        subset = np.asarray(read_particle_column(star, "rlnRandomSubset")).astype(int)
        if len(subset) == problem.count:
            subset = subset[group.first.cpu().numpy()]
        if len(subset) == group.count and set(np.unique(subset)) == {1, 2}:
            halves = subset[particle] - 1
    if halves is None:
        log.message("no rlnRandomSubset beside the data: the half sets are odd and even particles", "warning")
        halves = problem.unit % 2
    rows = [np.flatnonzero(halves == i) for i in range(len(HALVES))]
    return {half: Part(own, np.unique(particle[own])) for half, own in zip(HALVES, rows)}


def train(
    problem: Problem, recipe: Recipe, options: TrainOptions, log: JobLog, out: Path, part: Part | None = None
) -> None:
    """Train from the start, or from the checkpoint in ``out``: epochs with a checkpoint each, then the final latents.

    ``part``: rows and particles of ``problem`` in the whole dataset; None for the whole. Raises AbortRequested on a
    request to stop, after writing a checkpoint.
    """
    main = distributed().rank == 0
    if options.resume and (out / STATE).exists():
        trainer = resume(problem, recipe, options, out / STATE)
        log.message(f"going on from epoch {trainer.epoch}, step {trainer.step_in_epoch}")
        if main and trainer.epoch and not trainer.step_in_epoch and not weights_of(trainer, out).exists():
            write_weights(trainer, log, out)  # of a run that was killed before it had written them
    else:
        trainer = begin(problem, recipe, options, log)
        if main and recipe.latents == "linear":
            write_probe(trainer, log, out)
    while trainer.epoch < trainer.epochs:
        try:
            if trainer.step_in_epoch == 0:  # here, so that a run stopped in it does it again
                refine_if_due(trainer, log)
            began, waited = time.monotonic(), problem.feed.waited
            trainer.run_epoch(log)
            share = (problem.feed.waited - waited) / (time.monotonic() - began)
        except AbortRequested:
            if main:
                save_checkpoint(trainer.state(), out / STATE)
            raise
        if share > WAITING_SHARE:
            log.message(f"{100 * share:.0f} % of the epoch's time went to waiting for images: {FASTER_IMAGES}")
        if main:
            write_weights(trainer, log, out)
            write_probe(trainer, log, out)
            save_checkpoint(trainer.state(), out / STATE)  # last: a run that is killed here does the epoch again
    figures: dict[str, torch.Tensor] = {}
    if recipe.latents == "encoder":
        trainer.table.values.copy_(latent_refinement.encode_all(trainer, log))
    else:
        if recipe.refine:
            figures = refine_latents(trainer, log, trainer.recipe.refine, 1.0)
        teaching.teach_encoder(trainer, log)
    if main:
        write_results(trainer, log, out, part, {name: value.cpu().numpy() for name, value in figures.items()})


def weights_of(trainer: Trainer, out: Path) -> Path:
    """Path of the weights after the epochs completed so far."""
    return out / f"weights.{trainer.epoch - 1}.pkl"


def write_weights(trainer: Trainer, log: JobLog, out: Path) -> None:
    """Write the network after the epochs completed so far."""
    path = weights_of(trainer, out)
    save_checkpoint(trainer.published_state(), path)
    log.artifact("checkpoint", path, f"network after epoch {trainer.epoch}", epoch=trainer.epoch)


def begin(problem: Problem, recipe: Recipe, options: TrainOptions, log: JobLog) -> Trainer:
    """A new trainer: with latents from a linear model and a decoder taught by it, or with the recipe's own latents."""
    forward = new_forward_model(problem, recipe, options)
    noise = noise_model.estimate(problem.feed, problem.device, options.seed)
    if recipe.latents != "linear":
        return Trainer(problem, recipe, options, forward, noise)
    linear = linear_fit.fit(problem, forward, noise, recipe.held, recipe.weigh_junk, options.seed, log)
    forward.leave_out(linear.moves, linear.count > 0)
    forward.set_gaussians(linear.model.gaussians)
    forward.gauge = linear.model.fields.gauge
    noise.power.copy_(linear.noise_power)
    active = torch.arange(forward.zdim, device=problem.device) < linear.count
    found = joint_posterior.estimate(
        linear.measured, linear.widths, linear.junk, active, problem.group, options.seed, 0, log
    )
    if not linear.count:
        recipe = without_components(recipe)
    trainer = Trainer(problem, recipe, options, forward, noise, *found, linear.model.consensus)
    if linear.count:
        teaching.teach_decoder(trainer, linear.model.fields, log)
    return trainer


def resume(problem: Problem, recipe: Recipe, options: TrainOptions, path: Path) -> Trainer:
    """The training of a checkpoint, as it was left. Raises InputError if it is damaged or another one's."""
    forward = new_forward_model(problem, recipe, options)
    noise = noise_model.estimate(problem.feed, problem.device, options.seed)
    state = load_tensors(path, "--resume", STATE_ENTRIES, "Start again without --resume, with --overwrite.")
    forward.leave_out(state["moves"], state["changes"])
    if recipe.latents == "linear" and not state["changes"]:
        recipe = without_components(recipe)
    trainer = Trainer(problem, recipe, options, forward, noise)
    trainer.restore(state)
    return trainer


def refine_if_due(trainer: Trainer, log: JobLog) -> None:
    """Refine all latents where the schedule asks for it: after the encoder's epochs, and at ``trainer.refinements``."""
    recipe, epoch = trainer.recipe, trainer.epoch
    if recipe.latents == "encoder" or not recipe.refine:
        return
    if recipe.latents == "both" and epoch == trainer.encoder_epochs:
        trainer.table.values.copy_(latent_refinement.encode_all(trainer, log))
    if epoch in trainer.refinements:
        # Where latents are sampled, the network goes on learning: two rounds, for those that start from another valley.
        refine_latents(trainer, log, 2 if trainer.latents_sampled else recipe.refine, recipe.beta)
        for moment in (trainer.table.first, trainer.table.second, trainer.table.visits):
            moment.zero_()


def refine_latents(trainer: Trainer, log: JobLog, rounds: int, prior: float) -> dict[str, torch.Tensor]:
    """Refine the trainer's latents; returns the figures of each particle (see ``latent_refinement``)."""
    found = latent_refinement.refine(trainer, log, rounds, trainer.recipe.candidates, prior)
    if found.latents is not None and found.corrections is not None:
        trainer.set_latents(found.latents, found.corrections)
    else:
        trainer.table.values.copy_(found.values)
    return found.figures


@torch.no_grad()
def write_probe(trainer: Trainer, log: JobLog, out: Path) -> None:
    """Write probes/epoch_NNN.npz for live views: latents of some particles, a few images and their renderings."""
    generator = np.random.default_rng(trainer.options.seed)
    chosen = np.sort(generator.permutation(trainer.problem.group.count)[:PROBE_LATENTS])
    index = torch.from_numpy(chosen).to(trainer.device)
    rows = trainer.problem.group.first[index[:PROBE_IMAGES]]
    z = trainer.table.mean[index]
    forward = trainer.forward.eval()
    renderings = forward.render(z[: len(rows)], trainer.problem.views.rows(rows), forward.embed())
    buffer = io.BytesIO()
    np.savez(
        buffer,
        rows=chosen,
        z=z.cpu().numpy(),
        epoch=trainer.epoch,
        images=trainer.problem.feed.get(rows).cpu().numpy(),
        renderings=renderings.cpu().numpy(),
    )
    folder = out / "probes"
    folder.mkdir(exist_ok=True)
    path = folder / f"epoch_{trainer.epoch:03d}.npz"
    write_atomically(path, buffer.getvalue())
    log.artifact("probe", path, f"epoch {trainer.epoch}", epoch=trainer.epoch)


def find_detail(trainer: Trainer, log: JobLog) -> torch.Tensor | None:  # (D, D, D)
    """Detail of the consensus map that the trained Gaussians lack (see ``model.detail``); None without a map beside
    the data, and for the published recipe, whose volumes are those of the Gaussians alone."""
    path = resolve_input(trainer.options, "cfg").with_name(CONSENSUS_MAP)
    if trainer.options.recipe == "published" or not path.is_file():
        return None
    generator = np.random.default_rng(trainer.options.seed)
    z = trainer.table.mean.cpu().numpy()
    if trainer.latents_sampled:
        z = z[corrections.real_particles(trainer.corrections.junk, trainer.problem.group).cpu().numpy()]
    z = z[generator.permutation(len(z))[:VOLUMES]]
    configuration, forward = trainer.problem.configuration, trainer.forward
    backend = trainer.options.projector if trainer.options.projector != "xray" else "auto"
    model = TrainedModel(
        configuration,
        forward.gaussians,
        forward.network,
        forward.embed().detach(),
        trainer.problem.movable,
        trainer.device,
        backend,
        gauge=forward.gauge,
    )
    density = torch.from_numpy(read_map(path).values).to(trainer.device)
    mean = reduce(torch.add, model.volumes(z)) / len(z)
    detail = missing_detail(fourier_resample(density, configuration.box), mean)
    share = float(detail.std() / (mean + detail).std())
    log.message(f"volumes get the detail that only the consensus map shows, {100 * share:.0f} % of their contrast")
    return detail


def write_results(trainer: Trainer, log: JobLog, out: Path, part: Part | None, figures: dict[str, np.ndarray]) -> None:
    """Write the final weights, the latents in row order, the refined Gaussians and the noise spectrum.

    ``figures``: more arrays (P,) for the latents file; ``part``: as for :func:`train`.
    """
    last, table = trainer.epochs - 1, trainer.table
    weights, latents = out / f"weights.{last}.pkl", out / f"weights.{last}.output.pkl"
    state = trainer.published_state()
    if part is None and (detail := find_detail(trainer, log)) is not None:  # half sets must share nothing
        state["detail"] = detail.cpu()
    save_checkpoint(state, weights)
    more = {**figures, "active": trainer.active.cpu().numpy()}  # dimensions that stand above the noise
    if trainer.recipe.corrects:
        more |= corrections.arrays(trainer.corrections, trainer.problem.group)
        problem = trainer.problem
        corrections.report(trainer.corrections, problem.group, problem.unit, trainer.recipe.weigh_junk, log)
        star = resolve_input(trainer.options, "cfg").with_name("particles.star")
        corrections.write_particles(
            trainer.corrections, trainer.problem, star, out, None if part is None else part.rows, log
        )
    if part is not None:
        more["ind"] = part.particles[:, None]
    save_latents(latents, table.mean.cpu().numpy(), table.log_variance.cpu().numpy(), **more)
    gaussians = trainer.forward.gaussians
    write_gaussians(gaussians, out / REFINED)
    noise = {"frequency_per_pixel": trainer.noise.frequency.tolist(), "power": trainer.noise.power.tolist()}
    write_json(out / "noise_spectrum.json", noise)
    log.artifact("checkpoint", weights, "trained network", final=True)
    log.artifact("latents", latents, "latents of all particles")
    log.artifact("gaussians", out / REFINED, "refined consensus Gaussians")
