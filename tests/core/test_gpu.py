"""The engine on CUDA: the same numbers as on the CPU, and every command from images to volumes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussianem_core.cli import main
from gaussianem_core.io.latents import load_latents
from gaussianem_core.io.mrc import read_map
from gaussianem_core.job.events import EVENTS, NullLog
from gaussianem_core.model.gaussians import Gaussians
from gaussianem_core.options import TrainOptions
from gaussianem_core.simulation.ground_truth import load_truth
from gaussianem_core.simulation.latent_scores import latent_error
from gaussianem_core.training import mixture_prior, noise_model, objective
from gaussianem_core.training.adam import Adam
from gaussianem_core.training.problem import load_problem, resolve_stack
from gaussianem_core.training.recipe import choose_recipe
from gaussianem_core.training.trainer import CAPTURE_AFTER, Trainer, new_forward_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


def test_adam_in_pieces_makes_the_steps_of_the_optimiser() -> None:
    torch.manual_seed(0)
    first = [torch.randn(3, 7000, device="cuda"), torch.randn(5, device="cuda")]
    optimisers: list[Adam | torch.optim.Adam] = []
    for kind, more in ((torch.optim.Adam, {"capturable": True}), (Adam, {})):
        groups = [
            {"params": [value.clone().requires_grad_()], "lr": torch.tensor(0.01, device="cuda")} for value in first
        ]
        optimisers.append(kind(groups, fused=True, **more))
    for _ in range(4):
        gradients = [torch.randn_like(value) for value in first]
        for optimiser in optimisers:
            for group, gradient in zip(optimiser.param_groups, gradients):
                group["params"][0].grad = gradient
            optimiser.step()
    for expected, found in zip(*(optimiser.param_groups for optimiser in optimisers)):
        assert torch.equal(expected["params"][0], found["params"][0])


@pytest.mark.parametrize("recipe", ["default", "published"])
def test_loss_and_gradients_are_those_of_the_cpu(
    moving: Path, tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    # The published loss is an absolute value: two of 20,000 residuals that change their sign by rounding change its
    # slope by 2 %. Far from the model, on either side of it, no residual does.
    side = torch.randint(2, (20, 32, 32), generator=torch.Generator().manual_seed(1)) * 2.0 - 1
    away = 10.0 * side if recipe == "published" else 0.0 * side
    found = []
    for name in ("cpu", "cuda"):
        device = torch.device(name)
        options = TrainOptions(
            source_dir=str(moving / "pre"), device=name, batch=20, recipe=recipe, precision="float32", pairs=0
        )
        problem = load_problem(options, device, NullLog(tmp_path), resolve_stack(options))
        chosen = choose_recipe(options)
        noise = noise_model.estimate(problem.feed, device, options.seed)
        trainer = Trainer(problem, chosen, options, new_forward_model(problem, chosen, options), noise)
        trainer.begin_epoch()
        trainer.rates.copy_(trainer.steps.row(trainer.position)["rates"])
        rows = torch.arange(20, device=device)
        z = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).to(device)
        latents = torch.nn.functional.pad(z, (0, 0, 0, int(chosen.anchor > 0)))
        row = trainer.entries(rows) | {"shell_weight": noise.shell_weight(trainer.rate("band"))}
        seen = trainer.see(problem.feed.get(rows) + away.to(device), row)
        terms = trainer.losses(seen, latents, z.square())
        gradients = objective.gradients(terms, [p for p, _ in trainer.learnt], device)
        found.append([objective.values(terms, device).cpu(), *(g.cpu() for g in gradients)])
    for cpu, cuda in zip(*found):  # single gradients are sums of many that cancel: their sizes together are compared
        assert float((cuda - cpu).norm()) <= 2e-3 * float(cpu.norm())


def test_a_captured_step_finds_the_gradients_of_an_eager_one(moving: Path, tmp_path: Path) -> None:
    """Its branches share memory: none may take what another still reads. Sizes are those of a real molecule."""
    device = torch.device("cuda")
    options = TrainOptions(source_dir=str(moving / "pre"), device="cuda", batch=20)
    problem = load_problem(options, device, NullLog(tmp_path), resolve_stack(options))
    generator = torch.Generator().manual_seed(0)
    places = (0.3 * torch.randn(19_000, 3, generator=generator)).clamp(-0.7, 0.7).to(device)
    raw, bounds = torch.zeros(len(places), device=device), (problem.gaussians.scale_min, problem.gaussians.scale_max)
    problem.gaussians = Gaussians(places, raw - 2, raw.clone(), *bounds)
    problem.configuration = replace(problem.configuration, network={})
    recipe = choose_recipe(options)
    noise = noise_model.estimate(problem.feed, device, options.seed)
    trainer = Trainer(problem, recipe, options, new_forward_model(problem, recipe, options), noise)
    trainer.begin_epoch()
    parameters = [p for p, _ in trainer.learnt]
    for number in range(12):
        kept = [p.detach().clone() for p in parameters]
        trainer.step(None)
        if number < CAPTURE_AFTER:
            continue
        captured = [p.grad.clone() for p in parameters if p.grad is not None]
        with torch.no_grad():
            for p, value in zip(parameters, kept):
                p.copy_(value)
        row = trainer.steps.row(trainer.position - 1)
        rows = trainer.order[trainer.position - 1][0]
        seen = trainer.see(problem.feed.get(rows), row)
        trainer.position -= 1  # which pairs count
        eager = objective.gradients(trainer.losses(seen, row["z"]), parameters, device)
        trainer.position += 1
        for found, expected in zip(captured, eager, strict=True):
            assert float((found - expected).norm()) <= 1e-2 * float(expected.norm()), number


@pytest.mark.parametrize("more", [[], ["--latents", "both"], ["--recipe", "published"], ["--projector", "reference"]])
def test_every_command(moving: Path, tmp_path: Path, more: list[str]) -> None:
    """Preprocess, train past the capture of its graph, stop and go on, evaluate, analyze, decode."""
    source, device = ["-s", str(moving / "pre")], ["--device", "cuda"]
    train = ["train", *source, *device, "--job_dir", str(tmp_path / "train"), "--batch", "20", *more]
    assert main([*train, "--epoch", "2"]) == 0
    assert main([*train, "--epoch", "3", "--resume"]) == 0
    latents = tmp_path / "train" / "weights.2.output.pkl"
    z, truth = load_latents(latents)["z_mu"], load_truth(moving / "sim" / "truth.npz")
    assert z.shape == (600, 4) and np.isfinite(z).all()
    if not more or more[0] == "--projector":
        assert truth.state is not None
        assert latent_error(z, truth.state, False, np.random.default_rng(0)) < 0.5
    model = ["--model_weight", str(tmp_path / "train" / "weights.2.pkl"), "--latent", str(latents)]
    evaluate = ["evaluate", *source, *model, "--truth", str(moving / "sim" / "truth.npz"), "--volumes", "3"]
    assert main([*evaluate, *device, "--job_dir", str(tmp_path / "evaluate")]) == 0
    assert main(["analyze", *source, *model, *device, "--job_dir", str(tmp_path / "analyze")]) == 0
    (tmp_path / "rows.txt").write_text("0\n5\n")
    decode = ["decode", *source, *model, *device, "--particle_indices", str(tmp_path / "rows.txt")]
    assert main([*decode, "--job_dir", str(tmp_path / "decode")]) == 0
    maps = sorted((tmp_path / "decode").rglob("*.mrc"))
    assert maps and all(np.isfinite(read_map(path).values).all() for path in maps)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
def test_two_gpus_recover_the_motion(moving: Path, tmp_path: Path) -> None:
    """As the application starts them: a process a GPU, gradients and populations summed by NCCL."""
    command = [sys.executable, "-m", "gaussianem_core", "train", "-s", str(moving / "pre"), "--batch", "10"]
    command += ["--job_dir", str(tmp_path), "--epoch", "3", "--gpus", "0,1"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 x cuda:0" in (tmp_path / EVENTS).read_text()
    z, truth = load_latents(tmp_path / "weights.2.output.pkl")["z_mu"], load_truth(moving / "sim" / "truth.npz")
    assert z.shape == (600, 4) and truth.state is not None
    assert latent_error(z, truth.state, False, np.random.default_rng(0)) < 0.5


def test_population_is_that_of_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(500, 3, 3, generator=generator)
    information = root @ root.mT
    linear = (information @ torch.randn(500, 3, 1, generator=generator))[..., 0]
    cpu = mixture_prior.Measured(linear, information)
    cuda = mixture_prior.Measured(linear.cuda(), information.cuda())
    first, second = (mixture_prior.fit(measured, 0)[0] for measured in (cpu, cuda))
    assert len(first.share) == len(second.share)
    for a, b in zip(mixture_prior.summary(first, cpu), mixture_prior.summary(second, cuda)):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-2, atol=1e-2)
