"""How rates and weights change over a training."""

from __future__ import annotations

import torch

RATES = ("network", "density", "position", "latent", "beta", "band")


def ramp(done: torch.Tensor, start: float, end: float, full: float) -> torch.Tensor:
    """Values that go geometrically from ``start`` to ``end`` (both positive) over the share ``full`` of the training,
    and stay there; ``done``: shares of the training that are done, of any shape."""
    share = (done / full).clamp_max(1.0) if full > 0 else torch.ones_like(done)
    return start * (end / start) ** share
