"""What is learnt: the network and the consensus Gaussians."""

from __future__ import annotations

import torch

from gaussianem_core.model.gaussians import Gaussians
from gaussianem_core.model.network import Network


class Model(torch.nn.Module):
    """What is learnt: the network, and the consensus Gaussians' raw parameters."""

    def __init__(self, network: Network, gaussians: Gaussians, train_gaussians: bool) -> None:
        super().__init__()
        self.network = network
        self.bounds = (gaussians.scale_min, gaussians.scale_max)
        self.positions = torch.nn.Parameter(gaussians.positions.clone(), train_gaussians)
        self.raw_density = torch.nn.Parameter(gaussians.raw_density.clone(), train_gaussians)
        self.raw_scale = torch.nn.Parameter(gaussians.raw_scale.clone(), train_gaussians)

    @property
    def gaussians(self) -> Gaussians:
        return Gaussians(self.positions, self.raw_density, self.raw_scale, *self.bounds)

    def embed(self) -> torch.Tensor:
        """Gaussian embedding; the consensus parameters are data here, they learn from the images alone."""
        g = self.gaussians
        return self.network.embed(
            Gaussians(g.positions.detach(), g.raw_density.detach(), g.raw_scale.detach(), *self.bounds)
        )
