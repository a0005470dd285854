"""The fused Gaussian encoder against plain torch: values and gradients, in Triton's interpreter and on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from gaussianem_core.model.gaussians import Gaussians
from gaussianem_core.model.network import Network

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SHAPES = [  # Gaussians, hidden layers beside the first, their width, embedding
    (70, 3, 32, 16),
    (33, 1, 64, 32),
    (5, 2, 32, 32),
    (130, 3, 128, 32),  # the default network
]


def made(count: int, layers: int, width: int, dim: int) -> tuple[Network, Gaussians, torch.Tensor]:
    """A network, Gaussians, and the gradient of the embedding, in float64."""
    torch.manual_seed(count)
    network = Network(16, gaussian_klayers=layers, gaussian_kdim=width, gaussian_embedding_dim=dim).double()
    with torch.no_grad():
        for parameter in network.gaussian_embedding.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    raw = torch.randn(2, count, dtype=torch.float64)
    positions = 0.5 * torch.randn(count, 3, dtype=torch.float64)
    return network, Gaussians(positions, raw[0], raw[1], 0.01, 0.1), torch.randn(count, dim, dtype=torch.float64)


def values_and_gradients(
    network: Network, gaussians: Gaussians, weight: torch.Tensor, precision: str
) -> list[torch.Tensor]:
    network.zero_grad()
    out = network.embed(gaussians, precision)
    (out * weight.to(out)).sum().backward()
    gradients = [parameter.grad for parameter in network.gaussian_embedding.parameters()]
    return [value.detach().cpu().double().clone() for value in (out, *gradients) if value is not None]


def single(gaussians: Gaussians) -> Gaussians:
    """The Gaussians in float32."""
    values = (gaussians.positions, gaussians.raw_density, gaussians.raw_scale)
    return Gaussians(*(value.float() for value in values), 0.01, 0.1)


def worst(shape: tuple[int, int, int, int]) -> float:
    """Largest relative difference of the fused kernels' values and gradients from plain torch in float64."""
    network, gaussians, weight = made(*shape)
    exact = values_and_gradients(network, gaussians, weight, "float32")
    fast = values_and_gradients(network.float(), single(gaussians), weight, "auto")
    assert len(fast) == len(exact) == 1 + len(list(network.gaussian_embedding.parameters()))
    assert all(value.shape == reference.shape for value, reference in zip(fast, exact))
    return max(float((value - reference).norm() / reference.norm()) for value, reference in zip(fast, exact))


@pytest.mark.skipif(not INTERPRETED, reason="runs in a process of its own")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_in_the_interpreter_equal_plain_torch(shape: tuple[int, int, int, int]) -> None:
    # The interpreter computes in float32: what differs is rounding.
    assert worst(shape) < 1e-4


@pytest.mark.skipif(INTERPRETED, reason="already in the interpreter")
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.slow
def test_triton_kernels_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "interpreter_equal"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([*command, str(Path(__file__))], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(SHAPES)} passed" in done.stdout


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_on_the_gpu_equal_plain_torch_within_rounding(shape: tuple[int, int, int, int]) -> None:
    network, gaussians, weight = made(*shape)
    exact = values_and_gradients(network, gaussians, weight, "float32")
    fast = values_and_gradients(network.float().to("cuda"), single(gaussians).to("cuda"), weight, "auto")
    assert (fast[0] - exact[0]).norm() < 5e-3 * exact[0].norm()  # TF32 keeps 10 bits, 1e-3, in each layer
    for value, reference in zip(fast[1:], exact[1:]):
        # Gradients keep 8 bits, and a relu within rounding of its kink may switch, which turns them a little.
        along = (value * reference).sum() / (value.norm() * reference.norm())
        assert along > 0.997 and abs(value.norm() / reference.norm() - 1) < 0.03


def test_a_gradient_of_the_gaussians_is_left_out() -> None:
    network, gaussians, weight = made(*SHAPES[0])
    gaussians.positions.requires_grad_()
    (network.embed(gaussians) * weight).sum().backward()
    assert gaussians.positions.grad is None
