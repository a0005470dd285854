"""Energies of images at several latents, each with its best nuisances; and quadratics corrected by such energies."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gaussianem_core.training.grouping import Grouping
from gaussianem_core.training.joint_posterior import Quadratic, marginal
from gaussianem_core.training.latent_posterior import flat
from gaussianem_core.training.nuisances import COUNT


@dataclass(frozen=True)
class Profile:
    """B images, linear in their nuisances, for likelihoods at the best nuisances (profile likelihoods).

    image, transfer : (B, D, D//2+1), spectra, and CTF times contrast. root : (D, D//2+1), root of the weight.
    jacobian : (B, 7, P), whitened derivatives by the nuisances in units of their widths, at v : (B, 7).
    inverse : (B, 7, 7), of the derivatives' inner products plus the prior's precision 1.
    """

    image: torch.Tensor
    transfer: torch.Tensor
    root: torch.Tensor
    jacobian: torch.Tensor
    v: torch.Tensor
    inverse: torch.Tensor

    @classmethod
    def of(
        cls, image: torch.Tensor, transfer: torch.Tensor, root: torch.Tensor, jacobian: torch.Tensor, v: torch.Tensor
    ) -> Profile:
        """The profile from images, transfer, root of the weight and derivatives at ``v``; shapes as the fields'."""
        eye = torch.eye(v.shape[1], device=v.device)
        return cls(image, transfer, root, jacobian, v, torch.linalg.inv_ex(jacobian @ jacobian.mT + eye)[0])

    def energies(
        self, projected: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:  # (B, C, D, D//2+1) -> (B, C), (B, C, 7)
        """Energy (minus log-likelihood and log prior of v, nats) of each image under C models at its best v, and v.

        ``projected``: spectra before the CTF. The energy is min over v of |r + J (v - v0)|^2 / 2 + |v|^2 / 2, with the
        whitened residual r at v0.
        """
        residual = flat((projected * self.transfer[:, None] - self.image[:, None]) * self.root)
        slope = residual @ self.jacobian.mT + self.v[:, None]
        step = slope @ self.inverse
        squared = residual.square().sum(-1) + self.v.square().sum(-1, keepdim=True)
        return 0.5 * (squared - (slope * step).sum(-1)), self.v[:, None] - step


def bent(
    found: Quadratic, z: torch.Tensor, ahead: torch.Tensor, rise: torch.Tensor, group: Grouping
) -> Quadratic:  # (B, K) x 2, (B,)
    """Quadratics of B images, whole particles of a ``group``, corrected where they overrate the latents ``ahead``.

    ``rise``: of each image's energy (nats, nuisances at their best) from the latents ``z``, where ``found`` was
    measured, to ``ahead``. Where a particle's energy rises by d more than its quadratic says, the energy gets the
    term d (s . (z' - z))^2 / |s|^4, with s = ahead - z and z' the argument: value and slope at ``z`` stay, and the
    value at ``ahead`` becomes right. Energies that rise less than was said change nothing.
    """
    alone = marginal(found)

    def energy(x: torch.Tensor) -> torch.Tensor:
        curved = (alone.information @ x[..., None])[..., 0]
        return (x * (0.5 * curved - alone.linear)).sum(-1)

    step = ahead - z
    missed = group.images(group.total(rise - energy(ahead) + energy(z)).clamp_min(0.0) / group.sizes)
    factor = 2 * missed / step.square().sum(-1).clamp_min(1e-6).square()
    along, start = torch.nn.functional.pad(step, (COUNT, 0)), (step * z).sum(-1)
    return Quadratic(
        found.linear + (factor * start)[:, None] * along,
        found.information + factor[:, None, None] * along[:, :, None] * along[:, None],
        found.chi2 + factor * start.square(),
    )
