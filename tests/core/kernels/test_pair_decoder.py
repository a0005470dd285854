"""The fused decoder against plain torch: values and gradients, in Triton's interpreter and on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from gaussianem_core.model import pair_decoder
from gaussianem_core.model.pair_decoder import decode_pairs, decode_pairs_reference, fused_available

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SHAPES = [  # images, Gaussians, width, heads, hidden layers
    (2, 70, 32, 64, 2),
    (3, 130, 64, 128, 1),
    (1, 5, 32, 64, 1),
    (2, 40, 32, 128, 3),
    (2, 130, 128, 512, 2),  # weights resident in shared memory
]


class Arguments(NamedTuple):
    tensors: list[Tensor]  # z_part, gaussian_part, head_weight, head_bias, out_weight, out_bias
    weights: list[Tensor]
    biases: list[Tensor]

    def decode(self, fused: bool) -> Tensor:
        z_part, gaussian_part, *heads = self.tensors
        return decode_pairs(z_part, gaussian_part, self.weights, self.biases, *heads, fused=fused)

    def to(self, device: str, dtype: torch.dtype) -> Arguments:
        return Arguments(*([t.detach().to(device, dtype).requires_grad_() for t in group] for group in self))


def random_arguments(images: int, count: int, width: int, heads: int, layers: int) -> Arguments:
    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, dtype=torch.float64)

    gain = (2 / width) ** 0.5
    tensors = [
        normal(images, width),
        normal(count, width),
        normal(heads, width, scale=gain),
        normal(heads, scale=0.1),
        normal(4, heads, scale=(2 / heads) ** 0.5),
        normal(4),
    ]
    weights = [normal(width, width, scale=gain) for _ in range(layers)]
    return Arguments(tensors, weights, [normal(width, scale=0.1) for _ in range(layers)])


def values_and_gradients(arguments: Arguments, fused: bool, weight: Tensor) -> list[Tensor]:
    out = arguments.decode(fused)
    (out * weight.to(out)).sum().backward()
    leaves = [leaf for group in arguments for leaf in group]
    return [out.detach().cpu().double(), *(leaf.grad.cpu().double() for leaf in leaves)]  # type: ignore[union-attr]


@pytest.mark.parametrize("images, count", [(7, 5), (3, 100), (2, 33), (0, 5), (3, 0)])
def test_blocks_without_gradients_equal_all_pairs_at_once(
    images: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_decoder, "BLOCK_PAIRS", 16)
    torch.manual_seed(0)
    arguments = random_arguments(images, count, 8, 12, 2)
    with torch.no_grad():
        found = arguments.decode(False)
    assert found.shape == (images, count, 4)
    z_part, gaussian_part, *heads = arguments.tensors
    reference = decode_pairs_reference(z_part, gaussian_part, arguments.weights, arguments.biases, *heads)
    torch.testing.assert_close(found, reference, rtol=1e-12, atol=1e-12)


def relative(value: Tensor, reference: Tensor) -> float:
    assert value.shape == reference.shape
    return float((value - reference).norm() / reference.norm())


@pytest.mark.skipif(not INTERPRETED, reason="runs in a process of its own")
@pytest.mark.parametrize("hopper", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_in_the_interpreter_equal_plain_torch(
    shape: tuple[int, int, int, int, int], hopper: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaussianem_core.kernels.pair_decoder_triton._on_hopper", lambda device: hopper)
    torch.manual_seed(shape[1])
    arguments = random_arguments(*shape)
    weight = torch.randn(shape[0], shape[1], 4, dtype=torch.float64)
    fast = values_and_gradients(arguments.to("cpu", torch.float32), True, weight)
    exact = values_and_gradients(arguments.to("cpu", torch.float64), False, weight)
    # The interpreter computes in float32: what differs is rounding, and a relu or two at its kink.
    assert all(relative(value, reference) < 1e-4 for value, reference in zip(fast, exact))


@pytest.mark.skipif(INTERPRETED, reason="already in the interpreter")
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.slow
def test_triton_kernels_in_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "interpreter_equal",
        str(Path(__file__)),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{2 * len(SHAPES)} passed" in done.stdout


def rounded(x: Tensor) -> Tensor:
    """x rounded to bfloat16, in x's own type; gradients pass unchanged."""
    return x + (x.detach().bfloat16().to(x.dtype) - x.detach())


def decode_rounded(arguments: Arguments) -> Tensor:
    """The network with operands rounded where the kernels round them, and exact sums."""
    z_part, gaussian_part, head_weight, head_bias, out_weight, out_bias = arguments.tensors
    hidden = rounded(torch.relu(z_part[:, None] + rounded(gaussian_part)))
    for weight, bias in zip(arguments.weights, arguments.biases):
        hidden = rounded(torch.relu(hidden @ rounded(weight).T + bias))
    heads = rounded(torch.relu(hidden @ rounded(head_weight).T + head_bias))
    return heads @ rounded(out_weight).T + out_bias


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_on_the_gpu_equal_rounded_torch(shape: tuple[int, int, int, int, int]) -> None:
    torch.manual_seed(shape[1])
    arguments = random_arguments(*shape).to("cuda", torch.float32)
    weight = torch.randn(shape[0], shape[1], 4, dtype=torch.float64)
    fast = values_and_gradients(arguments, True, weight)
    exact = arguments.to("cuda", torch.float64)
    out = decode_rounded(exact)
    (out * weight.to(out)).sum().backward()
    leaves = [leaf for group in exact for leaf in group]
    # Values: float32 sums, and an operand that rounds the other way now and then. Gradients are rounded to
    # bfloat16 (4e-3) at each layer, and a relu within rounding of its kink may switch.
    assert relative(fast[0], out.detach().cpu()) < 2e-3
    for value, leaf in zip(fast[1:], leaves):
        assert leaf.grad is not None
        assert relative(value, leaf.grad.cpu()) < 3e-2


def test_rounding_changes_values_by_bfloat16s_precision() -> None:
    torch.manual_seed(2)
    arguments = random_arguments(2, 50, 64, 128, 2)
    # Each of four layers rounds operands to 8 bits, a relative error of at most 4e-3.
    assert 1e-4 < relative(decode_rounded(arguments), arguments.decode(fused=False)) < 1.6e-2


def test_plain_torch_is_differentiable() -> None:
    torch.manual_seed(0)
    arguments = random_arguments(2, 3, 4, 6, 2)
    leaves = [leaf.requires_grad_() for group in arguments for leaf in group]

    def run(*flat: Tensor) -> Tensor:
        return Arguments(list(flat[:6]), list(flat[6:8]), list(flat[8:])).decode(fused=False)

    assert torch.autograd.gradcheck(run, leaves)


def test_plain_torch_is_the_layer_by_layer_network() -> None:
    torch.manual_seed(1)
    arguments = random_arguments(2, 3, 8, 16, 1)
    z_part, gaussian_part, head_weight, head_bias, out_weight, out_bias = arguments.tensors
    for b in range(2):
        for n in range(3):
            h = torch.relu(z_part[b] + gaussian_part[n])
            h = torch.relu(arguments.weights[0] @ h + arguments.biases[0])
            expected = out_weight @ torch.relu(head_weight @ h + head_bias) + out_bias
            torch.testing.assert_close(arguments.decode(fused=False)[b, n], expected)


def test_sizes_that_do_not_fit_fall_back() -> None:
    z_part = torch.zeros(2, 48)
    assert not fused_available(z_part, torch.zeros(96, 48), 2)
    assert not fused_available(torch.zeros(2, 64, dtype=torch.float64), torch.zeros(128, 64), 2)
