"""Which device a job computes on, and what to say when the device cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gaussianem_core.errors import ResourceError
from gaussianem_core.options import ComputeOptions


def choose_device(options: ComputeOptions) -> torch.device:
    """The device that the options ask for; sets the number of CPU threads too.

    Raises
    ------
    ResourceError : CUDA was asked for and there is none.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    available = torch.cuda.is_available()
    if options.device == "cuda" and not available:
        reason = "this PyTorch was built without CUDA" if torch.version.cuda is None else "no usable GPU was found"
        raise ResourceError(f"--device cuda: {reason}. Give --device cpu, or auto, or mend the driver.")
    return torch.device("cuda" if available and options.device != "cpu" else "cpu")


@contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Turn CUDA's out-of-memory error into ResourceError; ``what`` says what to make smaller."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        free, total = (value / 2**30 for value in torch.cuda.mem_get_info())
        raise ResourceError(
            f"the GPU's memory is full ({free:.1f} of {total:.1f} GiB are free). {what}, or give --device cpu."
        ) from error
