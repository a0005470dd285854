"""Shared by the kernels: the window of a Gaussian, and whether Triton can run here."""

from __future__ import annotations

import functools

import torch

WINDOW_SIGMAS = 4.0
"""Half width of the fast kernels' window in sigmas; the largest term left out is exp(-8) = 3.4e-4 of a peak."""


@functools.cache  # the kernels ask for every batch, and looking for a package takes 0.4 ms
def triton_available() -> bool:
    """Whether the package triton can be imported."""
    from importlib.util import find_spec

    return find_spec("triton") is not None


def triton_interpreted() -> bool:
    """Whether Triton runs its kernels in its interpreter, on the CPU (the environment variable
    TRITON_INTERPRET=1, read when the kernels are imported)."""
    import os

    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def triton_takes(tensor: torch.Tensor) -> bool:
    """Whether kernels of float32 arithmetic are taken for a tensor where nothing else is asked for: float32 on CUDA."""
    return tensor.is_cuda and triton_available() and tensor.dtype == torch.float32


def triton_runs(device: torch.device) -> bool:
    """Whether kernels with matrix products of bfloat16 or TF32 run on a device: CUDA from capability 8.0 on, or
    Triton's interpreter."""
    if not triton_available():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0) if device.type == "cuda" else triton_interpreted()


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Number of multiprocessors of a CUDA device; 2 for Triton's interpreter on the CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
