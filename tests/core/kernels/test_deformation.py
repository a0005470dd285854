"""The kernels of deformation and of neighbours against plain torch in float64, in Triton's interpreter and on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gaussianem_core.model.deformation import deform_gaussians
from gaussianem_core.model.gauge import Gauge, make_gauge
from gaussianem_core.model.gaussians import Gaussians
from gaussianem_core.training.regularisers import (
    Anchor,
    NeighbourPairs,
    anchor_term,
    find_pairs,
    rigidity_and_composition,
)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEFORMED = ("positions", "densities", "displacement", "density_change", "centre positions", "centre density")
CASES = [  # images, Gaussians, centre, outputs that the loss depends on
    (3, 70, True, DEFORMED),
    (3, 70, False, DEFORMED[:4]),
    (1, 5, True, DEFORMED),
    (40, 33, True, DEFORMED),  # more images than a tile holds
    (2, 50, True, ("positions", "densities")),
    (2, 50, True, ("displacement", "centre density")),
    (2, 50, True, ("density_change", "centre positions")),
    (2, 50, False, ("densities",)),
]
NEIGHBOURS = [  # images, Gaussians, drawn pairs (0: all), terms that the loss depends on
    (3, 70, 0, (0, 1)),
    (2, 300, 200, (0, 1)),
    (1, 40, 7, (0,)),
    (2, 40, 0, (1,)),
]
in_the_interpreter = pytest.mark.skipif(not INTERPRETED, reason="runs in a process of its own")
on_a_gpu = pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA device")


def random_gaussians(count: int) -> Gaussians:
    positions = torch.rand(count, 3, dtype=torch.float64) - 0.5
    raw_density = 3 * torch.randn(count, dtype=torch.float64)
    raw_density[::3] = 30.0  # where softplus is linear
    raw_density[1::5] = -25.0  # where 1 + exp is 1 in float32
    return Gaussians(positions, raw_density, torch.zeros(count, dtype=torch.float64), 0.01, 0.1)


def values_and_gradients(
    run: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], weights: Sequence[Tensor | None]
) -> list[Tensor]:
    """What ``run`` returns, and the gradients with respect to its inputs of the sum of the results times weights; those
    without a weight are left out."""
    leaves = [value.detach().clone().requires_grad_() for value in inputs]
    found = run(*leaves)
    loss = sum((value * weight.to(value)).sum() for value, weight in zip(found, weights) if weight is not None)
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    zeros = [torch.zeros_like(leaf) for leaf in leaves]
    filled = [zero if gradient is None else gradient for gradient, zero in zip(gradients, zeros)]
    return [value.detach().cpu().double() for value in (*found, *filled)]


def assert_equal(fast: list[Tensor], exact: list[Tensor]) -> None:
    assert len(fast) == len(exact)
    for value, reference in zip(fast, exact):
        # float32 arithmetic, and sums in another order
        torch.testing.assert_close(value, reference, rtol=3e-5, atol=3e-6 * max(1.0, float(reference.abs().max())))


def compare_deformation(
    device: str, images: int, count: int, centre: bool, used: tuple[str, ...], gauge: bool = False
) -> None:
    torch.manual_seed(count)
    gaussians = random_gaussians(count)
    change = torch.randn(images + centre, count, 4, dtype=torch.float64)
    movable = torch.rand(count) < 0.8 if gauge else None
    shapes = ((images, count, 3), (images, count), (images, count, 3), (images, count), (count, 3), (count,))
    weights = [torch.randn(shape) if name in used else None for name, shape in zip(DEFORMED, shapes)]

    def found(device: str, dtype: torch.dtype, fused: bool) -> list[Tensor]:
        frame = Gaussians(gaussians.positions.float(), torch.zeros(count), torch.zeros(count), 0.01, 0.1)
        fixed = Gauge(*(part.to(device, dtype) for part in make_gauge(frame, torch.arange(1.0, count + 1))))
        where = None if movable is None else movable.to(device)

        def run(positions: Tensor, raw_density: Tensor, change: Tensor) -> list[Tensor]:
            g = replace(gaussians, positions=positions, raw_density=raw_density)
            *deformed, middle = deform_gaussians(g, change, where, fixed if gauge else None, centre, fused=fused)
            return [*deformed, middle.positions, middle.raw_density] if centre else deformed

        inputs = [value.to(device, dtype) for value in (gaussians.positions, gaussians.raw_density, change)]
        return values_and_gradients(run, inputs, weights)

    fast = found(device, torch.float32, True)
    assert_equal(fast, found("cpu", torch.float64, False))


def compare_neighbours(device: str, images: int, count: int, drawn: int, used: tuple[int, ...]) -> None:
    torch.manual_seed(count)
    pairs = find_pairs(random_gaussians(count).positions)
    chosen = torch.randint(len(pairs.first), (drawn,)) if drawn else None
    changes = (0.1 * torch.randn(images, count, 3, dtype=torch.float64), 0.3 * torch.randn(images, count))
    weights = [torch.tensor(2.0 - term) if term in used else None for term in (0, 1)]

    def found(device: str, dtype: torch.dtype, fused: bool) -> list[Tensor]:
        first, second, *rest = (value.to(device) for value in pairs[:5])
        placed = NeighbourPairs(first, second, *(value.to(dtype) for value in rest), pairs.mean_distance)
        numbers = None if chosen is None else chosen.to(device)

        def run(displacement: Tensor, density_change: Tensor) -> Sequence[Tensor]:
            return rigidity_and_composition(displacement, density_change, placed, numbers, fused=fused)

        return values_and_gradients(run, [value.to(device, dtype) for value in changes], weights)

    assert_equal(found(device, torch.float32, True), found("cpu", torch.float64, False))


@in_the_interpreter
@pytest.mark.parametrize("case", CASES, ids=str)
def test_deformation_in_the_interpreter_equals_plain_torch(case: tuple[int, int, bool, tuple[str, ...]]) -> None:
    compare_deformation("cpu", *case)


@in_the_interpreter
def test_deformation_with_gauge_and_mask_in_the_interpreter_equals_plain_torch() -> None:
    compare_deformation("cpu", *CASES[0], gauge=True)


@in_the_interpreter
@pytest.mark.parametrize("case", NEIGHBOURS, ids=str)
def test_neighbours_in_the_interpreter_equal_plain_torch(case: tuple[int, int, int, tuple[int, ...]]) -> None:
    compare_neighbours("cpu", *case)


@pytest.mark.skipif(INTERPRETED, reason="already in the interpreter")
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_triton_kernels_in_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    options = ["-q", "-p", "no:cacheprovider", "-k", "in_the_interpreter_equal"]
    command = [sys.executable, "-m", "pytest", *options, str(Path(__file__))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(CASES) + 2 + len(NEIGHBOURS)} passed" in done.stdout


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("case", CASES, ids=str)
def test_deformation_on_the_gpu_equals_plain_torch(case: tuple[int, int, bool, tuple[str, ...]]) -> None:
    compare_deformation("cuda", *case)


@pytest.mark.gpu
@on_a_gpu
def test_deformation_with_gauge_and_mask_on_the_gpu_equals_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    compare_deformation("cuda", *CASES[0], gauge=True)


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("case", NEIGHBOURS, ids=str)
def test_neighbours_on_the_gpu_equal_plain_torch(case: tuple[int, int, int, tuple[int, ...]]) -> None:
    compare_neighbours("cuda", *case)


def test_the_mean_term_of_one_stretched_pair() -> None:
    """Two Gaussians at distance d, of which one moves by 0.1 d along their axis and gains COMPOSITION_WIDTH of raw
    density: rigidity w 0.01, composition w log 2."""
    pairs = find_pairs(torch.tensor([[0.0, 0, 0], [0.25, 0, 0]]))
    displacement = torch.tensor([[[0.0, 0, 0], [0.025, 0, 0]]])
    rigidity, composition = rigidity_and_composition(displacement, torch.tensor([[0.0, 0.1]]), pairs)
    assert float(rigidity) == pytest.approx(0.01 * float(pairs.weight[0]), rel=1e-5)
    assert float(composition) == pytest.approx(float(torch.log(torch.tensor(2.0)) * pairs.weight[0]), rel=1e-5)


def compare_anchor(device: str) -> None:
    gaussians = random_gaussians(300)
    middle, width = torch.randn(300, 5, dtype=torch.float64), torch.rand(5, dtype=torch.float64) + 0.1

    def found(device: str, dtype: torch.dtype, fused: bool) -> list[Tensor]:
        anchor = Anchor(middle.to(device, dtype), width.to(device, dtype))

        def run(positions: Tensor, raw_density: Tensor, raw_scale: Tensor) -> Sequence[Tensor]:
            g = replace(gaussians, positions=positions, raw_density=raw_density, raw_scale=raw_scale)
            return [anchor_term(g, anchor, fused=fused)]

        inputs = (gaussians.positions, gaussians.raw_density, gaussians.raw_scale)
        return values_and_gradients(run, [value.to(device, dtype) for value in inputs], [torch.tensor(1.7)])

    assert_equal(found(device, torch.float32, True), found("cpu", torch.float64, False))


@in_the_interpreter
def test_the_anchor_in_the_interpreter_equals_plain_torch() -> None:
    compare_anchor("cpu")


@pytest.mark.gpu
@on_a_gpu
def test_the_anchor_on_the_gpu_equals_plain_torch() -> None:
    compare_anchor("cuda")
