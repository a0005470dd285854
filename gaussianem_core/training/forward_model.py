"""From Gaussians to spectra of particle images: network, consensus Gaussians, poses and CTFs.

The image of a particle is C P(R, t) G(z): the Gaussians G at its latent z, projected in its pose (rotation R, shift t),
times its CTF C. Everything that renders during training comes here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from gaussianem_core.imaging.ctf import ctf
from gaussianem_core.imaging.projection import Projector, project
from gaussianem_core.model.configuration import Configuration
from gaussianem_core.model.deformation import Deformed, deform_gaussians
from gaussianem_core.model.gauge import Gauge
from gaussianem_core.model.gaussians import Gaussians
from gaussianem_core.model.network import Network, Prepared, build_network
from gaussianem_core.runtime.streams import torch_seed

MOST_BYTES = {"cuda": 3 << 30, "cpu": 1 << 28}
"""Memory (bytes) of one batch of projections outside the training steps, by device type, ..."""
GPU_SHARE = 1 / 12
"""... and on a large GPU this share of its memory: the more images at once, the less it waits for the host."""


class Views(NamedTuple):
    """Poses and CTFs of B images: ``rotations`` (B, 3, 3) and ``shifts`` (B, 2) in pixels as in ``imaging.pose``, and
    ``ctf`` (B, 9) or (B, 15 + T), parameters as in ``imaging.ctf``."""

    rotations: torch.Tensor
    shifts: torch.Tensor
    ctf: torch.Tensor

    def rows(self, chosen: torch.Tensor | slice) -> Views:
        """Views of the images ``chosen``: indices (b,), a mask (B,) or a slice."""
        return Views(self.rotations[chosen], self.shifts[chosen], self.ctf[chosen])

    def repeat(self, times: int) -> Views:
        """Each view repeated ``times`` times in a row: B * times views."""
        return Views(*(value.repeat_interleave(times, dim=0) for value in self))

    def transfer(self, box: int) -> torch.Tensor:  # (B, D, D//2+1)
        """Contrast transfer functions on the ``rfft2`` grid of a box of D pixels."""
        return ctf(self.ctf, box)


def project_gaussians(
    gaussians: Gaussians,
    positions: torch.Tensor,
    densities: torch.Tensor,
    views: Views,
    box: int,
    backend: Projector,
    sigmas: torch.Tensor | None = None,
) -> torch.Tensor:  # (B, D, D)
    """Projections, before the CTF, of Gaussians with the widths of ``gaussians`` and other positions and densities.

    ``positions``: (M, 3) for all views or (B, M, 3), in world units; ``densities``: (M,) or (B, M); ``sigmas``: the
    widths (M,) in world units, where they have been formed already. Raises InputError for a ``backend`` that cannot run
    here (see ``imaging.projection.project``).
    """
    return project(
        positions,
        densities,
        gaussians.sigmas if sigmas is None else sigmas,
        views.rotations,
        views.shifts,
        box,
        backend=backend,
        sigma_max=gaussians.scale_max,
    )


def project_pieces(
    gaussians: Gaussians,
    regions: list[torch.Tensor],
    positions: torch.Tensor,
    densities: torch.Tensor,
    views: Views,
    box: int,
    backend: Projector,
) -> torch.Tensor:  # R index tensors, (B, M, 3), (B, M) -> (B, R, D, D)
    """Projections, before the CTF, of each region of the Gaussians alone; together they are those of all.

    ``regions``: indices of the Gaussians of each of R regions; other arguments as for :func:`project_gaussians`.
    """
    sigmas, parts = gaussians.sigmas, []
    for members in regions:
        p, d = positions[:, members], densities[:, members]
        parts.append(project_gaussians(gaussians, p, d, views, box, backend, sigmas[members]))
    return torch.stack(parts, dim=1)


def spectrum(images: torch.Tensor) -> torch.Tensor:  # (..., D, D) -> (..., D, D//2+1)
    """Orthonormal Fourier transform: white noise of variance 1 keeps power 1 in every component."""
    return torch.fft.rfft2(images, norm="ortho")


def render_first(
    box: int, sigma: float, backend: Projector, device: torch.device
) -> torch.Tensor:  # (1, box, box//2+1)
    """Project one Gaussian of width ``sigma`` (world units) into an image of ``box`` pixels; its spectrum.

    The first projection of a process loads the kernels, for which Triton reads all of its own library, half a gigabyte.
    In a thread of its own it overlaps with work that waits for the disk. Raises InputError as :func:`project`.
    """
    position, shift = torch.zeros(1, 3, device=device), torch.zeros(1, 2, device=device)
    density, width = torch.ones(1, device=device), torch.full((1,), sigma, device=device)
    rotation = torch.eye(3, device=device)[None]
    return spectrum(project(position, density, width, rotation, shift, box, backend=backend, sigma_max=sigma))


class ForwardModel(torch.nn.Module):
    """The learnt parameters, of the network and of the consensus Gaussians, and how they are projected.

    Parameters
    ----------
    configuration : sizes of the network, and the box.
    gaussians : the M consensus Gaussians to start from; their device is the model's.
    movable : (M,) bool, or None where every Gaussian may move and change.
    backend : of the projector, see ``imaging.projection.project``.
    precision : of the decoder, see ``Network.change``.
    head_scale : factor of the network's initial output layers; a small one starts from the consensus.
    learn_gaussians : whether the consensus Gaussians are learnt too.
    seed : of the network's initial weights.
    """

    def __init__(
        self,
        configuration: Configuration,
        gaussians: Gaussians,
        movable: torch.Tensor | None,
        *,
        backend: Projector,
        precision: str,
        head_scale: float,
        learn_gaussians: bool,
        seed: int,
    ) -> None:
        super().__init__()
        torch.manual_seed(torch_seed(seed, "network"))
        self.network: Network = build_network(configuration)
        with torch.no_grad():
            for head in (self.network.d_density, self.network.d_xyz):
                last_layer(head).weight.mul_(head_scale)
                last_layer(head).bias.mul_(head_scale)
        self.box, self.backend, self.precision, self.movable = configuration.box, backend, precision, movable
        self.moves = True  # else latents change densities alone
        self.changes = True  # else latents change nothing
        self.gauge: Gauge | None = None
        self.bounds = (gaussians.scale_min, gaussians.scale_max)
        self.positions = torch.nn.Parameter(gaussians.positions.clone(), learn_gaussians)
        self.raw_density = torch.nn.Parameter(gaussians.raw_density.clone(), learn_gaussians)
        self.raw_scale = torch.nn.Parameter(gaussians.raw_scale.clone(), learn_gaussians)
        self.to(gaussians.positions.device)

    @property
    def gaussians(self) -> Gaussians:
        """The consensus Gaussians as they are learnt now."""
        return Gaussians(self.positions, self.raw_density, self.raw_scale, *self.bounds)

    @property
    def zdim(self) -> int:
        """Dimensions of the latent space."""
        return self.network.zdim

    def embed(self) -> torch.Tensor:
        """Embedding (M, E) of the consensus Gaussians, without a gradient to their parameters."""
        return self.network.embed(self.gaussians, self.precision)

    def decoder_parameters(self) -> list[torch.nn.Parameter]:
        """Learnt parameters of the network's decoder: without the image encoder, the scale head (kept for published
        checkpoints, never used), and the heads that :meth:`leave_out` switched off."""
        network = self.network
        if not self.changes:
            return []
        rest = [network.encoder, network.d_scaling, *([] if self.moves else [network.d_xyz])]
        skip = {id(p) for part in rest for p in part.parameters()}
        return [p for p in network.parameters() if id(p) not in skip]

    def leave_out(self, moves: bool, changes: bool) -> None:
        """Set to zero, for the rest of the training, the displacements unless ``moves``, and all that latents change
        unless ``changes``. Build optimisers after this."""
        self.moves, self.changes = moves and changes, changes
        for head, kept in ((self.network.d_xyz, self.moves), (self.network.d_density, changes)):
            if not kept:
                torch.nn.init.zeros_(last_layer(head).weight)
                torch.nn.init.zeros_(last_layer(head).bias)

    def set_gaussians(self, gaussians: Gaussians) -> None:
        """Copy the raw parameters of ``gaussians``, as many as before, into the model."""
        with torch.no_grad():
            for name in ("positions", "raw_density", "raw_scale"):
                getattr(self, name).copy_(getattr(gaussians, name))

    def deform(self, z: torch.Tensor, embedding: torch.Tensor) -> Deformed:  # (B, zdim), (M, E)
        """The Gaussians at latents ``z``, given the ``embedding`` of :meth:`embed`."""
        return self.deform_prepared(self.network.prepare(z, embedding))

    def deform_prepared(self, prepared: Prepared, centre: bool = False) -> Deformed:
        """:meth:`deform` of what is ``prepared``; ``centre``: whether there is one latent more, the centre of the
        latent space."""
        if not self.changes:  # the decoder's answer is known: most of a training's time without a GPU
            change = torch.zeros(len(prepared.latents), len(self.positions), 4, device=self.positions.device)
            return deform_gaussians(self.gaussians, change, centre=centre)
        return self.network.deform(self.gaussians, prepared, self.movable, self.precision, self.gauge, centre)

    def project(
        self, positions: torch.Tensor, densities: torch.Tensor, views: Views, sigmas: torch.Tensor | None = None
    ) -> torch.Tensor:  # (B, D, D)
        """Projections of Gaussians, shared (M, 3) or one set a view (B, M, 3), before the CTF.

        ``sigmas``: their widths (M,) in world units, where they have been formed already.
        """
        return project_gaussians(self.gaussians, positions, densities, views, self.box, self.backend, sigmas)

    def render(
        self, z: torch.Tensor, views: Views, embedding: torch.Tensor
    ) -> torch.Tensor:  # (B, zdim), B views, (M, E) -> (B, D, D)
        """Projections at latents ``z``, before the CTF."""
        deformed = self.deform(z, embedding)
        return self.project(deformed.positions, deformed.densities, views)

    def renders_at_once(self, decoded: bool = True) -> int:
        """Number of projections that fit into memory (MOST_BYTES): for each three spectra, its Gaussians, buffers of
        the projector, and, where they are ``decoded`` on CUDA without the fused kernels, the decoder's widest layer
        (on the CPU it is formed in blocks)."""
        gaussians = len(self.positions)
        bytes_each = 8 * 3 * self.box * (self.box // 2 + 1) + 4 * 12 * gaussians
        decoder = self.network.pair_decoder()
        if decoded and not decoder.fuses and self.positions.is_cuda:
            bytes_each += 8 * gaussians * len(decoder.head_weight)
        device = self.positions.device
        most = MOST_BYTES[device.type]
        if device.type == "cuda":
            most = max(most, int(GPU_SHARE * torch.cuda.get_device_properties(device).total_memory))
        return max(1, most // bytes_each)


def last_layer(head: torch.nn.Sequential) -> torch.nn.Linear:
    """The output layer of a decoder head."""
    return [layer for layer in head if isinstance(layer, torch.nn.Linear)][-1]
