"""A small trained model with a known answer: the network's weights are set so that latents move Gaussians at will."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gaussianem_core.io.checkpoint import save_checkpoint
from gaussianem_core.io.latents import save_latents
from gaussianem_core.model.configuration import Configuration, write_configuration
from gaussianem_core.model.gaussians import Gaussians, inverse_softplus, write_gaussians
from gaussianem_core.model.network import build_network

BOX, PIXEL = 24, 4.0
NETWORK = {
    "gaussian_embedding_dim": 8,
    "qlayers": 1,
    "qdim": 16,
    "zdim": 3,
    "gaussian_kdim": 16,
    "gaussian_klayers": 1,
    "feature_dim": 16,
    "feature_kdim": 16,
    "feature_klayers": 1,
}
CONFIGURATION = Configuration(BOX, PIXEL, 1.0 / BOX, 4.0 / BOX, 1.0, True, True, NETWORK, {})


def make_gaussians(count: int = 60) -> Gaussians:
    """Scattered Gaussians, one to 1.3 pixels wide."""
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(count, 3, generator=generator) - 0.5
    raw_density = inverse_softplus(torch.rand(count, generator=generator) + 1)
    return Gaussians(positions, raw_density, torch.zeros(count), CONFIGURATION.scale_min, CONFIGURATION.scale_max)


def write_model(
    folder: Path,
    z: np.ndarray,
    *,
    motion: float = 0.2,
    density: bool = False,
    store_gaussians: bool = False,
    **latents: np.ndarray,
) -> Path:
    """cfg.json, point_cloud.ply, weights.0.pkl and weights.0.output.pkl: random weights, output scaled to ``motion``.

    Without ``density`` latents change positions alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    network, gaussians = build_network(CONFIGURATION), make_gaussians()
    with torch.no_grad():
        if not density:
            network.d_density[-1].weight.zero_()
            network.d_density[-1].bias.zero_()
        _, moved = network.decode(torch.as_tensor(z, dtype=torch.float32), network.embed(gaussians))
        network.d_xyz[-1].bias -= moved.mean(dim=(0, 1))
        scale = motion / (moved - moved.mean(dim=(0, 1))).norm(dim=-1).mean()
        network.d_xyz[-1].weight *= scale
        network.d_xyz[-1].bias *= scale
    write_configuration(CONFIGURATION, folder / "cfg.json")
    write_gaussians(gaussians, folder / "point_cloud.ply")
    content = {"epoch": 0, "model_state_dict": network.state_dict()}
    if store_gaussians:
        content["gaussians"] = {name: getattr(gaussians, name) for name in ("positions", "raw_density", "raw_scale")}
    save_checkpoint(content, folder / "weights.0.pkl")
    save_latents(folder / "weights.0.output.pkl", z, np.full_like(z, -3.0), **latents)
    return folder
