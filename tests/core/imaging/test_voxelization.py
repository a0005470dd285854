"""The voxelizer: convention, physics, and the fast kernels against the reference, values and gradients."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.projection import project
from gaussianem_core.imaging.voxelization import voxelize

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
BACKENDS = [
    "cpu",
    pytest.param("triton-interpreted", marks=pytest.mark.skipif(not INTERPRETED, reason="in a process of its own")),
    pytest.param(
        "triton-cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]
SHAPES = [((), 40, 16, 1.0), ((2,), 10, 17, 1.0), ((2, 1), 3, 12, 2.0)]  # lead, Gaussians, box, sigma in pixels


def scene(lead: tuple[int, ...], count: int, box: int, sigma_pixels: float) -> list[Tensor]:
    """Positions (some beyond the box's edges), densities, sigmas that all volumes share; float64."""
    positions = 2.2 * torch.rand(*lead, count, 3, dtype=torch.float64) - 1.1
    sigmas = (0.5 + 0.5 * torch.rand(count, dtype=torch.float64)) * sigma_pixels * 2 / box
    return [positions, torch.rand(*lead, count, dtype=torch.float64), sigmas]


def volume_and_gradients(arguments: list[Tensor], box: int, backend: str, weight: Tensor) -> list[Tensor]:
    name, _, device = backend.partition("-")
    dtype = torch.float64 if name == "reference" else torch.float32
    leaves = [a.to("cuda" if device == "cuda" else "cpu", dtype).detach().requires_grad_() for a in arguments]
    volumes = voxelize(*leaves, box, backend=name)  # type: ignore[arg-type]
    (volumes * weight.to(volumes)).sum().backward()
    return [volumes.detach().cpu().double(), *(leaf.grad.cpu().double() for leaf in leaves)]  # type: ignore[union-attr]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fast_kernels_equal_the_reference(shape: tuple[tuple[int, ...], int, int, float], backend: str) -> None:
    torch.manual_seed(shape[1])
    box = shape[2]
    arguments = scene(*shape)
    weight = torch.randn(*shape[0], box, box, box, dtype=torch.float64)
    fast = volume_and_gradients(arguments, box, backend, weight)
    exact = volume_and_gradients(arguments, box, "reference", weight)
    # As for the projector: the windows end at 4 sigma, and gradients weigh the edge by up to 16.
    for value, reference, tolerance in zip(fast, exact, (1e-3, 5e-3, 1e-3, 1e-2)):
        assert value.shape == reference.shape
        assert float((value - reference).norm() / reference.norm()) < tolerance


@pytest.mark.skipif(INTERPRETED, reason="already in the interpreter")
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.slow
def test_triton_kernels_in_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "interpreted", str(Path(__file__))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(SHAPES)} passed" in done.stdout


def test_gradients_of_the_reference_are_its_derivatives() -> None:
    torch.manual_seed(1)
    arguments = [a.requires_grad_() for a in scene((2,), 3, 5, 1.5)]
    assert torch.autograd.gradcheck(lambda *a: voxelize(*a, 5), arguments)


def test_chunks_do_not_change_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    arguments = scene((), 25, 8, 1.0)
    weight = torch.randn(8, 8, 8, dtype=torch.float64)
    whole = volume_and_gradients(arguments, 8, "reference", weight)
    monkeypatch.setattr("gaussianem_core.imaging.voxelization._CHUNK_ELEMENTS", 8 * 8 * 10)
    for value, reference in zip(volume_and_gradients(arguments, 8, "reference", weight), whole):
        torch.testing.assert_close(value, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("box", [16, 17])
def test_a_point_lands_on_its_voxel(backend: str, box: int) -> None:
    position = torch.tensor([[3 * 2 / box, -2 * 2 / box, 4 * 2 / box]])
    volume = voxelize(position, torch.tensor([1.7]), torch.tensor([0.8 * 2 / box]), box, backend=backend)  # type: ignore[arg-type]
    z, y, x = (int(i) for i in torch.unravel_index(volume.argmax(), volume.shape))
    assert (x, y, z) == (box // 2 + 3, box // 2 - 2, box // 2 + 4)
    assert float(volume.max()) == pytest.approx(1.7, rel=1e-5)
    # One voxel away the density is exp(-1 / (2 0.8^2)) of it.
    assert float(volume[z, y, x + 1]) == pytest.approx(1.7 * math.exp(-0.5 / 0.64), rel=1e-4)


def test_the_projection_is_the_line_integral_of_the_volume() -> None:
    torch.manual_seed(5)
    box = 32
    positions, densities = 0.5 * torch.rand(20, 3) - 0.25, torch.rand(20)
    sigmas = torch.full((20,), 1.2 * 2 / box)
    volume = voxelize(positions, densities, sigmas, box, backend="reference")
    image = project(positions, densities, sigmas, torch.eye(3)[None], torch.zeros(1, 2), box, backend="reference")[0]
    # The sum over voxels of a Gaussian of 1.2 voxels is its integral to 1e-12; float32 rounds at 1e-6.
    torch.testing.assert_close(volume.sum(0) * 2 / box, image, rtol=1e-4, atol=1e-6)


def test_mistakes_are_named() -> None:
    positions, densities, sigmas = scene((), 3, 8, 1.0)
    with pytest.raises(InputError, match="densities"):
        voxelize(positions, densities[:2], sigmas, 8)
    with pytest.raises(InputError, match="positions"):
        voxelize(positions[:, :2], densities, sigmas, 8)
    with pytest.raises(InputError, match="xray"):
        voxelize(positions, densities, sigmas, 8, backend="xray")
