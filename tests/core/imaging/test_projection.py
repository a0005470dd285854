"""The projector: convention, physics, and the fast kernels against the reference, values and gradients.

The Triton kernels run on a GPU where there is one (marked gpu), and everywhere in Triton's interpreter, in
a process of its own because the interpreter is chosen when the kernels are imported.
"""

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
SHAPES = [  # images, Gaussians, box, largest sigma in pixels, what the images share
    (3, 70, 16, 1.0, "all"),
    (2, 33, 17, 1.0, "sigmas"),
    (4, 5, 32, 3.0, "nothing"),
    (1, 1, 8, 0.5, "positions"),
    (2, 40, 150, 2.0, "sigmas"),  # several tiles of matrix products
    (1, 300, 400, 0.6, "sigmas"),  # windows added atomically
]


def random_rotations(images: int) -> Tensor:
    q = torch.linalg.qr(torch.randn(images, 3, 3, dtype=torch.float64))[0]
    return q * torch.linalg.det(q)[:, None, None]


def scene(images: int, count: int, box: int, sigma_pixels: float, share: str) -> list[Tensor]:
    """Positions (some beyond the box's edges), densities, sigmas, rotations, shifts; float64."""
    positions = 2.2 * torch.rand(images, count, 3, dtype=torch.float64) - 1.1
    densities = torch.rand(images, count, dtype=torch.float64)
    sigmas = (0.5 + 0.5 * torch.rand(images, count, dtype=torch.float64)) * sigma_pixels * 2 / box
    if share in ("all", "positions"):
        positions = positions[0]
    if share == "all":
        densities = densities[0]
    if share in ("all", "sigmas"):
        sigmas = sigmas[0]
    return [positions, densities, sigmas, random_rotations(images), torch.randn(images, 2, dtype=torch.float64)]


def image_and_gradients(arguments: list[Tensor], box: int, backend: str, weight: Tensor) -> list[Tensor]:
    name, _, device = backend.partition("-")
    dtype = torch.float64 if name == "reference" else torch.float32
    placed = [a.to("cuda" if device == "cuda" else "cpu", dtype) for a in arguments]
    leaves = [placed[i].detach().requires_grad_() for i in (0, 1, 2, 4)]
    images = project(*leaves[:3], placed[3], leaves[3], box, backend=name)  # type: ignore[arg-type]
    (images * weight.to(images)).sum().backward()
    return [images.detach().cpu().double(), *(leaf.grad.cpu().double() for leaf in leaves)]  # type: ignore[union-attr]


def relative(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).norm() / reference.norm().clamp_min(1e-30))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fast_kernels_equal_the_reference(shape: tuple[int, int, int, float, str], backend: str) -> None:
    torch.manual_seed(shape[1])
    box = shape[2]
    arguments = scene(*shape)
    weight = torch.randn(shape[0], box, box, dtype=torch.float64)
    fast = image_and_gradients(arguments, box, backend, weight)
    exact = image_and_gradients(arguments, box, "reference", weight)
    # The windows end at 4 sigma: exp(-8) = 3.4e-4 of the peak is left out of values; gradients weigh the
    # edge by distance^2 / sigma^2 = 16, so 5e-3. Rounding to float16 in the matrix products is 5e-4 at most.
    for name, value, reference, tolerance in zip(
        ("images", "positions", "densities", "sigmas", "shifts"), fast, exact, (1e-3, 5e-3, 1e-3, 1e-2, 5e-3)
    ):
        assert relative(value, reference) < tolerance, name


@pytest.mark.parametrize("backend", BACKENDS)
def test_non_contiguous_tensors_and_no_gaussians(backend: str) -> None:
    torch.manual_seed(0)
    arguments = scene(3, 20, 16, 1.0, "nothing")
    strided = [a.transpose(0, 1).contiguous().transpose(0, 1) for a in arguments]
    assert not strided[0].is_contiguous()
    weight = torch.ones(3, 16, 16, dtype=torch.float64)
    for value, reference in zip(
        image_and_gradients(strided, 16, backend, weight), image_and_gradients(arguments, 16, backend, weight)
    ):
        # The same kernel on the same numbers: only the order of atomic additions may differ.
        torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-5)
    empty = [a[:, :0] if i < 3 else a for i, a in enumerate(arguments)]
    images = image_and_gradients(empty, 16, backend, weight)[0]
    assert images.shape == (3, 16, 16) and not images.any()


@pytest.mark.skipif(INTERPRETED, reason="already in the interpreter")
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.slow
def test_triton_kernels_in_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "interpreted", str(Path(__file__))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(SHAPES) + 1} passed" in done.stdout


def test_gradients_of_the_reference_are_its_derivatives() -> None:
    torch.manual_seed(1)
    arguments = [a.requires_grad_() for a in scene(2, 4, 6, 1.5, "sigmas")]
    assert torch.autograd.gradcheck(lambda *a: project(*a, 6), arguments)


def test_chunks_do_not_change_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    arguments = scene(3, 3000, 16, 1.0, "nothing")
    weight = torch.randn(3, 16, 16, dtype=torch.float64)
    whole = image_and_gradients(arguments, 16, "reference", weight)
    monkeypatch.setattr("gaussianem_core.imaging.projection._CHUNK_ELEMENTS", 2 * 16 * 2048)
    for value, reference in zip(image_and_gradients(arguments, 16, "reference", weight), whole):
        torch.testing.assert_close(value, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("box", [16, 17])
def test_a_point_lands_on_its_pixel(backend: str, box: int) -> None:
    # One Gaussian of 0.6 pixels, 3 right and 2 up of the centre; the particle sits at minus its shift.
    position = torch.tensor([[3 * 2 / box, 2 * 2 / box, 0.3]])
    sigma, identity = torch.tensor([0.6 * 2 / box]), torch.eye(3)[None].expand(2, 3, 3)
    shifts = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    images = project(position, torch.ones(1), sigma, identity, shifts, box, backend=backend)  # type: ignore[arg-type]
    for image, x, y in zip(images, (box // 2 + 3, box // 2 + 2), (box // 2 + 2, box // 2 + 4)):
        assert divmod(int(image.argmax()), box) == (y, x)
        # The peak is the line integral through the centre.
        assert float(image.max()) == pytest.approx(math.sqrt(2 * math.pi) * float(sigma), rel=1e-5)


def test_total_mass_is_kept() -> None:
    torch.manual_seed(3)
    box, sigma = 48, 1.2 * 2 / 48
    positions, densities = 0.5 * torch.rand(30, 3) - 0.25, torch.rand(30)
    sigmas = torch.full((30,), sigma)
    images = project(
        positions, densities, sigmas, random_rotations(4).float(), torch.zeros(4, 2), box, backend="reference"
    )
    mass = images.sum((1, 2)) * (2 / box) ** 2
    # Pixel sums of a Gaussian of 1.2 pixels equal its integral to exp(-2 pi^2 1.44), far below float32's rounding.
    torch.testing.assert_close(mass, (densities.sum() * (2 * math.pi) ** 1.5 * sigma**3).expand(4), rtol=1e-4, atol=0)


def test_rotation_is_applied_to_the_volume() -> None:
    torch.manual_seed(4)
    positions, densities, sigmas, rotations, shifts = scene(1, 10, 24, 1.0, "all")
    turned = project(positions, densities, sigmas, rotations, shifts, 24, backend="reference")
    identity = torch.eye(3, dtype=torch.float64)[None]
    torch.testing.assert_close(
        turned, project(positions @ rotations[0].T, densities, sigmas, identity, shifts, 24, backend="reference")
    )


def test_a_lost_gaussian_does_not_crash_the_cpu_kernel() -> None:
    positions = torch.tensor([[float("nan"), 0.0, 0.0], [float("inf"), 0.0, 0.0], [1e30, 0.0, 0.0], [0.0, 0.0, 0.0]])
    images = project(positions, torch.ones(4), torch.full((4,), 0.1), torch.eye(3)[None], torch.zeros(1, 2), 16)
    alone = project(positions[3:], torch.ones(1), torch.full((1,), 0.1), torch.eye(3)[None], torch.zeros(1, 2), 16)
    torch.testing.assert_close(images, alone)


def test_mistakes_are_named() -> None:
    arguments = scene(2, 3, 8, 1.0, "nothing")
    with pytest.raises(InputError, match="densities"):
        project(arguments[0], arguments[1][:, :2], *arguments[2:], 8)
    with pytest.raises(InputError, match="rotations"):
        project(*arguments[:3], arguments[3][0], arguments[4], 8)
    with pytest.raises(InputError, match="shifts"):
        project(*arguments[:4], arguments[4][:1], 8)
    with pytest.raises(InputError, match="projector"):
        project(*arguments, 8, backend="fastest")  # type: ignore[arg-type]
    if find_spec("xray_gaussian_rasterization_voxelization") is None:
        with pytest.raises(InputError, match="pip install"):
            project(*arguments, 8, backend="xray")
