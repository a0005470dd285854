"""The noise of the images: its power spectrum, and the weights that follow from it."""

from __future__ import annotations

import numpy as np
import torch

from gaussianem_core.imaging.fourier import half_plane_weight, shell_sizes, shells
from gaussianem_core.training.image_feed import ImageFeed

SAMPLE = 1024
"""Images whose mean power is the first estimate."""

LEAST_POWER = 1e-3
"""Of the mean over shells: no shell counts as freer of noise than this."""


class NoiseModel:
    """Noise with a power spectrum that depends on the shell alone: ``power`` (D//2+1,), kept in place on the device.

    ``frequency`` (D//2+1,) in cycles per pixel; ``image_power``: that of whole images, mean value left out.
    """

    def __init__(self, power: torch.Tensor, box: int) -> None:
        device = power.device
        self.power, self.box = power, box
        self.multiplicity = half_plane_weight(box, device).expand(box, box // 2 + 1)
        self.frequency = torch.arange(box // 2 + 1, device=device) / box
        self.image_power = float((power * shell_sizes(box, device))[1:].sum())

    def copy(self) -> NoiseModel:
        """One of its own, with the same spectrum."""
        return NoiseModel(self.power.clone(), self.box)

    def update(self, power: torch.Tensor) -> None:  # (D//2+1,)
        """Take a newly measured spectrum."""
        self.power.copy_(power.clamp_min(LEAST_POWER * power[1:].mean()))

    def shell_weight(self, band: torch.Tensor | float = 1.0) -> torch.Tensor:  # (D//2+1,)
        """1 / noise power of each shell, without the mean value, up to the frequency ``band`` (soft edge)."""
        by_shell = torch.sigmoid((band - self.frequency) / (0.5 / self.box)) / self.power
        return by_shell * (self.frequency > 0)

    def weight(self, band: torch.Tensor | float = 1.0) -> torch.Tensor:  # (D, D//2+1)
        """1 / noise power times multiplicity of every component, see :meth:`shell_weight`."""
        return self.shell_weight(band)[shells(self.box, self.power.device)] * self.multiplicity

    def shell_power(self, power: torch.Tensor) -> torch.Tensor:  # (D, D//2+1) -> (D//2+1,)
        """Mean of a half plane of powers in each shell."""
        index = shells(self.box, self.power.device).flatten()
        total = torch.zeros_like(self.power).index_add_(0, index, (power * self.multiplicity).flatten())
        return total / shell_sizes(self.box, self.power.device)


def estimate(feed: ImageFeed, device: torch.device, seed: int) -> NoiseModel:
    """First noise model: the images' own mean power (the signal is a small part of it)."""
    rows = np.random.default_rng(seed).permutation(feed.count)[:SAMPLE]
    noise = NoiseModel(torch.ones(feed.box // 2 + 1, device=device), feed.box)
    power = torch.zeros_like(noise.power)
    for chunk in np.array_split(rows, -(-len(rows) // 128)):
        spectrum = torch.fft.rfft2(feed.get(chunk), norm="ortho")
        power += noise.shell_power(spectrum.abs().square().mean(0)) * len(chunk) / len(rows)
    return NoiseModel(power, feed.box)
