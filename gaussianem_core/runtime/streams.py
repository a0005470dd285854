"""Named streams of random numbers: adding one leaves the numbers of all others unchanged.

Each use has a name and, where it comes again, a number (of the epoch, of the estimate); a stream depends on the job's
seed, the name and the number alone.
"""

from __future__ import annotations

import numpy as np
import torch


def sequence(seed: int, name: str, *numbers: int) -> np.random.SeedSequence:
    """The seed sequence of the use ``name``; ``numbers`` distinguish repeated uses (epoch, estimate)."""
    return np.random.SeedSequence(seed, spawn_key=(*name.encode(), *numbers))


def stream(seed: int, name: str, *numbers: int) -> np.random.Generator:
    """NumPy's generator of the use ``name``."""
    return np.random.default_rng(sequence(seed, name, *numbers))


def torch_seed(seed: int, name: str, *numbers: int) -> int:
    """The 63-bit seed of torch's generator of the use ``name``."""
    return int(sequence(seed, name, *numbers).generate_state(1, np.uint64)[0] >> 1)


def torch_stream(seed: int, name: str, *numbers: int) -> torch.Generator:
    """torch's generator of the use ``name``, on the CPU."""
    return torch.Generator().manual_seed(torch_seed(seed, name, *numbers))
