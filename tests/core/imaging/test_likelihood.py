"""The likelihood's kernels against its definition, and the definition against sums over pixels."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from gaussianem_core.imaging.ctf import apply_ctf, ctf
from gaussianem_core.imaging.fourier import shells
from gaussianem_core.imaging.likelihood import image_likelihood, image_likelihood_reference


def make_case(box: int, batch: int, device: str = "cpu", seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Random projections, spectra of images, CTF parameters, shell weights."""
    generator = np.random.default_rng(seed)
    parameters = np.tile([box, 1.7, 12000, 13000, 33, 300, 2.7, 0.1, 20], (batch, 1))
    parameters[:, 2:5] += generator.uniform(-900, 900, (batch, 3))
    projections, images = generator.normal(size=(2, batch, box, box))
    weight = generator.uniform(0.5, 2, box // 2 + 1)
    weight[0] = 0
    tensors = [torch.tensor(a, dtype=torch.float32, device=device) for a in (projections, images, parameters, weight)]
    return tensors[0], torch.fft.rfft2(tensors[1], norm="ortho"), *tensors[2:]


def compare(device: str) -> None:
    for box, batch, prior in ((16, 3, 0.2), (20, 6, 0.0), (64, 2, 0.5)):
        f, y, p, w = make_case(box, batch, device)
        factors = None if box == 16 else torch.linspace(0.5, 1.5, batch, device=device)
        found = []
        for fused in (False, True):
            leaf = f.clone().requires_grad_()
            result = image_likelihood(leaf, y, p, w, prior, factors, fused=fused)
            (result.data * torch.arange(1, batch + 1, device=device)).sum().backward()
            found.append((result.data.detach(), result.residual.sum(0), leaf.grad))
        for reference, fast in zip(*found):
            # float32 sums in another order; the CTF's phase reaches 1e2 rad, whose rounding is 1e-5
            torch.testing.assert_close(fast, reference, rtol=2e-4, atol=2e-4 * max(1, float(reference.abs().max())))


def test_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    code = "import sys; sys.path.insert(0, 'tests/core/imaging'); from test_likelihood import compare; compare('cpu')"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_kernels_on_the_gpu() -> None:
    compare("cuda")


def test_equals_the_sum_over_pixels() -> None:
    """With white noise and a free scale: half the squared residual over pixels, mean value left out."""
    f, y, p, _ = make_case(32, 4)
    variance = 1.7
    weight = torch.full((17,), 1 / variance)
    weight[0] = 0
    result = image_likelihood_reference(f, y, p, weight, 1e3)
    images = torch.fft.irfft2(y, s=(32, 32), norm="ortho")
    model = apply_ctf(f, ctf(p, 32))
    model, images = (t - t.mean((1, 2), keepdim=True) for t in (model, images))
    scale = (model * images).sum((1, 2)) / model.square().sum((1, 2))
    residual = images - scale[:, None, None] * model
    expected = 0.5 * residual.square().sum((1, 2)) / variance
    torch.testing.assert_close(result.data, expected, rtol=1e-4, atol=1e-3)


def test_residual_is_the_noise_power() -> None:
    """Images that are the model plus white noise leave the noise's power in every shell."""
    f, _, p, weight = make_case(64, 4, seed=1)
    generator = torch.Generator().manual_seed(0)
    noise = 0.3 * torch.randn(4, 64, 64, generator=generator)
    y = torch.fft.rfft2(f, norm="ortho") * ctf(p, 64) + torch.fft.rfft2(noise, norm="ortho")
    residual = image_likelihood_reference(f, y, p, weight, 0.0).residual.sum(0)
    counts = torch.bincount(shells(64, "cpu").flatten(), minlength=33) * 4
    # relative standard error of a mean of exponentially distributed powers: 1 / sqrt(count)
    assert ((residual / 0.09 - 1).abs() < 5 / counts.sqrt())[2:].all()
