"""A trained model of a molecule whose arm swings rigidly and may be absent, exactly as told."""

from __future__ import annotations

import numpy as np
import torch

from gaussianem_core.imaging.pose import random_rotations
from gaussianem_core.model.configuration import Configuration
from gaussianem_core.model.deformation import Deformed
from gaussianem_core.model.gaussians import Gaussians, inverse_softplus
from gaussianem_core.model.network import build_network
from gaussianem_core.model.trained_model import TrainedModel

BOX, PIXEL = 32, 4.0
HINGE = (0.0, 0.1, 0.0)
DEGREES = 30.0
"""The arm's turn about z at the first latent 1; at the second, -1 takes the arm away."""
ARM = 150
"""Gaussians from this number on are the arm's."""
NETWORK = {
    "gaussian_embedding_dim": 8,
    "qlayers": 1,
    "qdim": 16,
    "zdim": 2,
    "gaussian_kdim": 16,
    "gaussian_klayers": 1,
    "feature_dim": 16,
    "feature_kdim": 16,
    "feature_klayers": 1,
}


def swung(positions: torch.Tensor, degrees: torch.Tensor) -> torch.Tensor:  # (M, 3), (B,) -> (B, M, 3)
    """The molecule with its arm turned about the hinge."""
    angle, zero = torch.deg2rad(degrees), torch.zeros_like(degrees)
    c, s, one = angle.cos(), angle.sin(), zero + 1
    turn = torch.stack([c, -s, zero, s, c, zero, zero, zero, one], dim=-1).unflatten(-1, (3, 3))
    hinge = torch.tensor(HINGE)
    moved = positions.expand(len(degrees), -1, -1).clone()
    moved[:, ARM:] = (positions[ARM:] - hinge) @ turn.mT + hinge
    return moved


class SwingingModel(TrainedModel):
    """Its Gaussians move as told, exactly, where a network would come near it."""

    def deform(self, z: np.ndarray | torch.Tensor, precision: str = "float32") -> Deformed:  # (B, 2)
        latents = torch.as_tensor(np.asarray(z), dtype=torch.float32)
        positions = swung(self.gaussians.positions, DEGREES * latents[:, 0])
        change = torch.zeros(positions.shape[:2])
        change[:, ARM:] = -5 * (1 - latents[:, 1, None])
        densities = torch.nn.functional.softplus(self.gaussians.raw_density + change)
        return Deformed(positions, densities, positions - self.gaussians.positions, change)


def swinging_model() -> SwingingModel:
    """The model: latents are the angle / 30 degrees, and whether the arm is there (1) or not (-1)."""
    generator = torch.Generator().manual_seed(3)
    body = torch.randn(ARM, 3, generator=generator) * torch.tensor([0.2, 0.11, 0.11]) + torch.tensor([0.0, -0.12, 0.0])
    arm = torch.randn(100, 3, generator=generator) * torch.tensor([0.06, 0.12, 0.08]) + torch.tensor([0.0, 0.4, 0.05])
    positions = torch.cat([body, arm])
    density = 0.5 + torch.rand(len(positions), generator=generator)
    bounds = (2 * 1.0 / BOX, 2 * 2.0 / BOX)
    gaussians = Gaussians(positions, inverse_softplus(density), torch.zeros(len(positions)), *bounds)
    configuration = Configuration(BOX, PIXEL, 1.0 / BOX, 2.0 / BOX, 1.0, True, True, NETWORK, {})
    network = build_network(configuration).eval()
    with torch.no_grad():
        embedding = network.embed(gaussians)
    return SwingingModel(configuration, gaussians, network, embedding, None, torch.device("cpu"), "auto")


def random_views(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:  # -> (N, 3, 3), (N, 2)
    """Orientations, and shifts of about a pixel."""
    generator = np.random.default_rng(seed)
    shifts = generator.normal(size=(count, 2))
    return torch.from_numpy(random_rotations(count, generator)).float(), torch.from_numpy(shifts).float()
