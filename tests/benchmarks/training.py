"""Training speed as users get it, in one table: ``python tests/benchmarks/training.py`` (``--gpus 2`` adds two GPUs).

For each size a dataset is made up (random Gaussians, noise images), then epochs are run through the trainer with
data loading included, once with free latents that the linear model leads (the default) and once with latents from the
encoder (as published). The floor is the decoder's arithmetic as published, forward and backward, over the matrix rate
that is measured in the same run. Prints images/s, ms a step, the share of the floor, peak memory, for comparison the
images/s of a plain loop over the same network; then a breakdown by stage.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from gaussianem_core.imaging.ctf import ctf
from gaussianem_core.imaging.pose import random_rotations
from gaussianem_core.imaging.projection import project
from gaussianem_core.job.events import NullLog
from gaussianem_core.model.configuration import Configuration
from gaussianem_core.model.gaussians import Gaussians
from gaussianem_core.model.network import build_network
from gaussianem_core.model.trained_model import TrainedModel
from gaussianem_core.options import TrainOptions
from gaussianem_core.runtime.device import choose_device, distributed
from gaussianem_core.training import latent_refinement, noise_model, regularisers
from gaussianem_core.training.forward_model import Views
from gaussianem_core.training.grouping import Grouping
from gaussianem_core.training.image_feed import ImageFeed
from gaussianem_core.training.problem import Problem, load_problem, resolve_stack
from gaussianem_core.training.recipe import RECIPES, choose_recipe
from gaussianem_core.training.trainer import Trainer, new_forward_model

NETWORK = {
    "gaussian_embedding_dim": 32,
    "qlayers": 3,
    "qdim": 1024,
    "zdim": 10,
    "gaussian_kdim": 128,
    "gaussian_klayers": 3,
    "feature_dim": 256,
    "feature_kdim": 128,
    "feature_klayers": 2,
}
GPU_CASES = [(5965, 128, 32, 32768), (5965, 128, 128, 32768), (20000, 256, 32, 8192), (20000, 256, 128, 8192)]
GPU_CASES += [(50000, 384, 32, 4096)]
CPU_CASES = [(600, 32, 32, 512), (1200, 64, 32, 256)]


def make_problem(gaussians: int, box: int, images: int, device: torch.device) -> Problem:
    """A made-up dataset of the wanted size: a ball of Gaussians, random poses and CTFs, noise images."""
    generator = np.random.default_rng(0)
    points = generator.normal(size=(gaussians, 3))
    points *= 0.5 * generator.uniform(0, 1, (gaussians, 1)) ** (1 / 3) / np.linalg.norm(points, axis=1, keepdims=True)
    model = Gaussians(
        torch.tensor(points, dtype=torch.float32), torch.zeros(gaussians), torch.zeros(gaussians), 1 / box, 2 / box
    ).to(device)
    parameters = np.tile([box, 1.5, 15000, 15200, 30, 300, 2.7, 0.1, 0], (images, 1)).astype(np.float32)
    parameters[:, 2:4] += generator.uniform(-5000, 5000, (images, 1))
    noise = torch.Generator().manual_seed(0)

    def read(rows: np.ndarray) -> np.ndarray:
        return torch.randn(len(rows), box, box, generator=noise).numpy()

    feed = ImageFeed(read, images, box, False, device, "auto", 16 << 30)
    configuration = Configuration(box, 1.5, 1 / box, 2 / box, 1.0, True, True, NETWORK, {})
    arrays = (random_rotations(images, generator), generator.normal(size=(images, 2)), parameters)
    tensors = (torch.from_numpy(a.astype(np.float32)).to(device) for a in arrays)
    group = Grouping.of(np.arange(feed.count), device)
    return Problem(configuration, model, None, Views(*tensors), feed, np.arange(feed.count), group)


def make_trainer(problem: Problem, options: TrainOptions) -> Trainer:
    """A training from the start, without the linear model."""
    recipe = choose_recipe(options)
    noise = noise_model.estimate(problem.feed, problem.device, options.seed)
    return Trainer(problem, recipe, options, new_forward_model(problem, recipe, options), noise)


def images_per_second(problem: Problem, batch: int, latents: str, device: torch.device) -> tuple[float, float]:
    """Images/s over all processes, whole epochs after a first one, and peak GiB."""
    options = TrainOptions(batch=batch, epoch=3, latents=latents)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer = make_trainer(problem, options)
    log = NullLog(Path(tempfile.gettempdir()))
    trainer.run_epoch(log)
    synchronise(device)
    start = time.perf_counter()
    trainer.run_epoch(log)
    synchronise(device)
    seconds = time.perf_counter() - start
    images = trainer.steps_per_epoch * trainer.batch * trainer.ranks.world
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return images / seconds, memory


def plain_images_per_second(problem: Problem, batch: int, device: torch.device, steps: int = 8) -> float:
    """The same network trained in the plain way: every layer for every pair of image and Gaussian, all three heads, the
    reference projector, the published losses over all pairs, one operation after the other in float32."""
    torch.manual_seed(0)
    configuration, gaussians = problem.configuration, problem.gaussians
    box, recipe = configuration.box, RECIPES["published"]
    network = build_network(configuration).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=0.0)
    pairs, count = regularisers.find_pairs(gaussians.positions), len(gaussians)

    def step(rows: torch.Tensor) -> None:
        images = problem.feed.get(rows)
        mean, log_variance = network.encoder(images / configuration.std)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        embedding = network.embed(gaussians)
        pair = torch.cat([z[:, None].expand(-1, count, -1), embedding.expand(len(rows), -1, -1)], dim=-1)
        feature = network.feature_decoder(pair)
        change, _, displacement = network.d_density(feature), network.d_scaling(feature), network.d_xyz(feature)
        positions = gaussians.positions + displacement
        projection = project(
            positions,
            torch.nn.functional.softplus(gaussians.raw_density + change[..., 0]),
            gaussians.sigmas,
            problem.views.rotations[rows],
            problem.views.shifts[rows],
            box,
            backend="reference",
        )
        model = torch.fft.irfft2(torch.fft.rfft2(projection) * ctf(problem.views.ctf[rows], box), s=(box, box))
        loss = (model - images).abs().mean() + recipe.beta * regularisers.kl_divergence(mean, log_variance).mean()
        loss = loss + recipe.w_embedding * regularisers.embedding_term(embedding, pairs)
        loss = loss + recipe.w_distance * regularisers.distance_term(positions, pairs)
        loss = loss + recipe.w_direction * regularisers.direction_term(displacement, pairs)
        loss = loss + recipe.w_spacing * regularisers.spacing_term(positions, pairs)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    for i in range(2 + steps):
        if i == 2:
            synchronise(device)
            start = time.perf_counter()
        step(torch.randint(problem.count, (batch,), device=device))
    synchronise(device)
    return steps * batch / (time.perf_counter() - start)


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def matrix_rate(device: torch.device) -> tuple[float, float]:
    """Measured bf16 matrix rate (FLOP/s) and copy bandwidth (bytes/s, read and written)."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    source = torch.empty(2**30 if device.type == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def best(run) -> float:  # type: ignore[no-untyped-def]
        times = []
        for _ in range(8):
            synchronise(device)
            start = time.perf_counter()
            run()
            synchronise(device)
            times.append(time.perf_counter() - start)
        return min(times)

    return 2 * size**3 / best(lambda: a @ b), 2 * source.numel() / best(lambda: target.copy_(source))


def floor_seconds(network: dict[str, int], gaussians: int, batch: int, rate: float) -> float:
    """Arithmetic of the decoder as published (used heads alone), forward and twice that backward, at ``rate``."""
    k, f = network["feature_kdim"], network["feature_dim"]
    products = network["feature_klayers"] * k * k + k * f + 2 * f * f + 4 * f
    return 3 * 2 * products * gaussians * batch / rate


def breakdown(problem: Problem, batch: int, device: torch.device) -> None:
    """Kernel time by name over ten steps, with either source of the latents."""
    from torch.profiler import ProfilerActivity, profile

    for latents in ("linear", "encoder"):
        options = TrainOptions(batch=batch, epoch=3, latents=latents)
        trainer = make_trainer(problem, options)
        trainer.begin_epoch()
        trainer.position.fill_(0)
        for _ in range(6):
            trainer.step(None)
        activities = [ProfilerActivity.CUDA] if device.type == "cuda" else [ProfilerActivity.CPU]
        with profile(activities=activities) as profiler:
            for _ in range(10):
                trainer.step(None)
            synchronise(device)
        key = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
        print(f"\n{latents} latents, ten steps")
        print(profiler.key_averages().table(sort_by=key, row_limit=28, max_name_column_width=70))


def encoding(problem: Problem, batch: int, device: torch.device) -> float:
    """Seconds to encode all particles."""
    options = TrainOptions(batch=batch, epoch=1, latents="encoder")
    trainer = make_trainer(problem, options)
    log = NullLog(Path(tempfile.gettempdir()))
    latent_refinement.encode_all(trainer, log)
    synchronise(device)
    start = time.perf_counter()
    latent_refinement.encode_all(trainer, log)
    synchronise(device)
    return time.perf_counter() - start


def decoding(problem: Problem, device: torch.device) -> float:
    """Milliseconds from a latent to the volume in the host's memory, as the explorer decodes: median of 50."""
    network = build_network(problem.configuration).to(device)
    embedding = network.embed(problem.gaussians).detach()
    model = TrainedModel(problem.configuration, problem.gaussians, network, embedding, None, device, "auto")
    times = []
    for z in np.random.default_rng(0).normal(size=(60, model.zdim)):
        start = time.perf_counter()
        deformed = model.deform(z[None])
        model.volume(deformed.positions[0], deformed.densities[0], problem.configuration.box).cpu().numpy()
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times[10:]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--gpus", type=int, default=1, help="also measure this many GPUs together (weak scaling)")
    parser.add_argument("--cases", type=int, default=99, help="only the first so many sizes")
    parser.add_argument("--breakdown", action="store_true", help="kernel times of the first size")
    parser.add_argument("--data", help="a prepared directory, in place of made-up data of several sizes")
    parser.add_argument("--batch", type=int, default=32, help="images a step, with --data")
    arguments = parser.parse_args()
    if arguments.gpus > 1 and "RANK" not in os.environ:
        for count in (1, arguments.gpus):
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
            cases = ["--cases", str(arguments.cases), "--device", arguments.device, "--batch", str(arguments.batch)]
            cases += ["--data", arguments.data] if arguments.data else []
            subprocess.run([*launcher, __file__, "--gpus", str(arguments.gpus), *cases], check=True)
        return
    ranks = distributed()
    device = choose_device(arguments.device, ranks.local_rank)
    rate, bandwidth = matrix_rate(device)
    first = ranks.rank == 0
    if first:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        print(
            f"{ranks.world} x {name}, torch {torch.__version__}: bf16 {rate / 1e12:.0f} TFLOP/s, copy "
            f"{bandwidth / 1e9:.0f} GB/s"
        )
        print("| Gaussians | box | batch | latents | images/s | ms a step | floor ms | share of floor | peak GiB |")
        print("|---|---|---|---|---|---|---|---|---|")
    cases = GPU_CASES if device.type == "cuda" else CPU_CASES
    if arguments.data:
        options = TrainOptions(source_dir=arguments.data)
        given = load_problem(options, device, NullLog(Path(tempfile.gettempdir())), resolve_stack(options))
        cases = [(len(given.gaussians), given.configuration.box, arguments.batch, given.count)]
    for gaussians, box, batch, images in cases[: arguments.cases]:
        problem = given if arguments.data else make_problem(gaussians, box, images * ranks.world, device)
        for latents in ("linear", "encoder"):
            speed, memory = images_per_second(problem, batch, latents, device)
            floor = floor_seconds(problem.configuration.network, gaussians, batch, rate)
            step = batch * ranks.world / speed
            if first:
                print(
                    f"| {gaussians} | {box} | {batch} | {latents} | {speed:,.0f} | {1e3 * step:.2f} | "
                    f"{1e3 * floor:.2f} | {floor / step:.0%} | {memory:.1f} |",
                    flush=True,
                )
        if first and ranks.world == 1 and box == 128 and batch == 32:
            print(
                f"encoding {problem.count:,} images: {encoding(problem, batch, device):.2f} s; "
                f"one decode to a volume of {box} voxels: {decoding(problem, device):.1f} ms"
            )
            if arguments.breakdown:
                breakdown(problem, batch, device)
        if first and ranks.world == 1 and batch <= 32 and box <= 128:
            speed = plain_images_per_second(problem, batch, device)
            print(f"| {gaussians} | {box} | {batch} | plain loop | {speed:,.0f} | {1e3 * batch / speed:.2f} | | | |")
        del problem


if __name__ == "__main__":
    main()
