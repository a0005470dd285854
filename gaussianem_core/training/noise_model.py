"""The noise of the images: its power spectrum, and the weights that follow from it."""

from __future__ import annotations

import numpy as np
import torch

from gaussianem_core.imaging.fourier import half_plane_weight, shell_sizes, shells
from gaussianem_core.training.forward_model import spectrum
from gaussianem_core.training.image_feed import ImageFeed
from gaussianem_core.training.junk import broken

SAMPLE = 1024
"""Number of images whose mean power is the first estimate."""

LEAST_POWER = 1e-3
"""Least noise power of a shell, as a share of the mean over shells."""

LEAST_WEIGHT = 1e-30
"""Weight of a component below which rounding leaves nothing of what it measured."""


class NoiseModel:
    """Noise whose power depends on the shell alone: ``power`` (D//2+1,), of a component of the orthonormal transform.

    ``power`` is updated in place. ``frequency`` (D//2+1,): of the shells, in cycles per pixel. ``multiplicity``
    (D, D//2+1): how often a component occurs in the full plane. ``image_power``: sum of the first ``power`` over all
    components but the mean value.
    """

    def __init__(self, power: torch.Tensor, box: int) -> None:
        device = power.device
        self.power, self.box = power, box
        self.multiplicity = half_plane_weight(box, device).expand(box, box // 2 + 1)
        self.frequency = torch.arange(box // 2 + 1, device=device) / box
        self.image_power = float((power * shell_sizes(box, device))[1:].sum())

    def copy(self) -> NoiseModel:
        """A copy with a tensor of its own."""
        return NoiseModel(self.power.clone(), self.box)

    def update(self, power: torch.Tensor) -> None:  # (D//2+1,)
        """Set the spectrum to ``power``, each shell to at least LEAST_POWER of the mean."""
        self.power.copy_(power.clamp_min(LEAST_POWER * power[1:].mean()))

    def share(self, band: torch.Tensor | float = 1.0) -> torch.Tensor:  # (D//2+1,)
        """Share to which each shell counts, 0 for the mean value, with a soft edge at ``band`` (cycles per pixel)."""
        return torch.sigmoid((band - self.frequency) / (0.5 / self.box)) * (self.frequency > 0)

    def shell_weight(self, band: torch.Tensor | float = 1.0) -> torch.Tensor:  # (D//2+1,)
        """1 / noise power of each shell times its :meth:`share`."""
        return self.share(band) / self.power

    def weight(self, band: torch.Tensor | float = 1.0) -> torch.Tensor:  # (D, D//2+1)
        """1 / noise power times multiplicity of every component, see :meth:`shell_weight`."""
        return self.shell_weight(band)[shells(self.box, self.power.device)] * self.multiplicity

    def by_shell(self, images: torch.Tensor) -> torch.Tensor:  # (B, D, D//2+1) -> (B, D//2+1)
        """Mean power of spectra in each shell."""
        return shell_mean(images.abs().square() * self.multiplicity)


def shell_mean(power: torch.Tensor) -> torch.Tensor:  # (B, D, D//2+1) -> (B, D//2+1)
    """Mean over each shell of powers that are already multiplied by their multiplicity in the full plane."""
    box, index = power.shape[-2], shells(power.shape[-2], power.device).flatten()
    total = power.new_zeros(len(power), box // 2 + 1).index_add_(1, index, power.flatten(1))
    return total / shell_sizes(box, power.device)


def estimate(feed: ImageFeed, device: torch.device, seed: int) -> NoiseModel:
    """First noise model: the mean power of SAMPLE images without broken ones, of which the signal is a small part."""
    rows = np.random.default_rng(seed).permutation(feed.count)[:SAMPLE]
    noise = NoiseModel(torch.ones(feed.box // 2 + 1, device=device), feed.box)
    powers = [noise.by_shell(spectrum(feed.get(chunk))) for chunk in np.array_split(rows, -(-len(rows) // 128))]
    power = torch.cat(powers)
    whole = ~broken(power[:, 1:] @ shell_sizes(feed.box, device)[1:])
    return NoiseModel(power[whole].mean(0), feed.box)
