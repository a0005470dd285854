"""A trained model as one object: configuration, consensus Gaussians, network; latents in, Gaussians and volumes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.ctf import apply_ctf, ctf
from gaussianem_core.imaging.fourier import fourier_resample
from gaussianem_core.imaging.projection import project
from gaussianem_core.imaging.voxelization import voxelize
from gaussianem_core.io.checkpoint import load_checkpoint
from gaussianem_core.job.events import JobLog
from gaussianem_core.job.input_paths import resolve_input
from gaussianem_core.model.configuration import Configuration, load_configuration
from gaussianem_core.model.deformation import Deformed
from gaussianem_core.model.gauge import Gauge
from gaussianem_core.model.gaussians import Gaussians, load_gaussians, load_mask
from gaussianem_core.model.network import Network, load_network
from gaussianem_core.options import (
    AnalyzeOptions,
    DecodeOptions,
    EvaluateOptions,
    MorphOptions,
    Projector,
    ReconstructOptions,
)
from gaussianem_core.runtime.device import choose_device

_CHUNK_ELEMENTS = 2**27
"""Elements of one temporary of the decoder: 512 MiB in float32."""


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, on ``device``.

    gaussians : the N consensus Gaussians. embedding : (N, E), theirs by the network.
    movable : (N,) bool, None for all; the other Gaussians stay as in the consensus.
    backend : projector and voxelizer, see :func:`gaussianem_core.imaging.projection.project`.
    detail : (D, D, D) in the training box, added to every volume (see ``model.detail``), or None.
    gauge : removes rigid motion and a common factor of the densities, or None.
    """

    configuration: Configuration
    gaussians: Gaussians
    network: Network
    embedding: torch.Tensor  # (N, E)
    movable: torch.Tensor | None
    device: torch.device
    backend: Projector
    detail: torch.Tensor | None = None
    gauge: Gauge | None = None
    _details: dict[int, torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def zdim(self) -> int:
        """Dimensions of the latent space."""
        return self.network.zdim

    @torch.no_grad()
    def deform(self, z: np.ndarray | torch.Tensor, precision: str = "float32") -> Deformed:  # (B, zdim)
        """The Gaussians at latents ``z``, on the model's device; ``precision``: see ``Network.change``."""
        latents = torch.as_tensor(np.asarray(z), dtype=torch.float32, device=self.device)
        prepared = self.network.prepare(latents, self.embedding)
        return self.network.deform(self.gaussians, prepared, self.movable, precision, self.gauge)

    def chunks(self, z: np.ndarray, *, quick: bool = False) -> Iterator[tuple[slice, Deformed]]:
        """Yield rows of ``z`` (B, zdim) and their Gaussians, as :meth:`deform`, in parts that fit the memory.

        ``quick``: with the training's rounded products where its fused kernels run, which keep no wide activations: six
        times as many a second, motions of parts at most 0.04 degrees and 0.003 pixels rms off.
        """
        quick = quick and self.network.pair_decoder().fuses
        widest = 4 if quick else 2 * self.configuration.network["feature_dim"]
        size = max(1, min(256, _CHUNK_ELEMENTS // (len(self.gaussians) * widest)))
        for start in range(0, len(z), size):
            rows = slice(start, min(start + size, len(z)))
            yield rows, self.deform(z[rows], "auto" if quick else "float32")

    @torch.no_grad()
    def volume(self, positions: torch.Tensor, densities: torch.Tensor, box: int) -> torch.Tensor:
        """Volume (box, box, box) [z, y, x] of Gaussians at positions (N, 3; world units) with densities (N,), plus the
        detail. Raises InputError for a ``backend`` that cannot run."""
        volume = voxelize(
            positions, densities, self.gaussians.sigmas, box, backend=self.backend, sigma_max=self.gaussians.scale_max
        )
        detail = self.detail_in(box)
        return volume if detail is None else volume + detail

    def detail_in(self, box: int) -> torch.Tensor | None:  # (box, box, box)
        """The detail resampled to ``box`` voxels of the same length, or None; the last one is kept in memory."""
        if self.detail is None:
            return None
        if box not in self._details:
            self._details.clear()
            self._details[box] = fourier_resample(self.detail, box)
        return self._details[box]

    def volumes(self, z: np.ndarray, box: int | None = None) -> Iterator[torch.Tensor]:
        """Yield one volume (box, box, box) for each row of ``z`` (B, zdim), on the model's device; by default in the
        training box."""
        for _, deformed in self.chunks(z):
            for positions, densities in zip(deformed.positions, deformed.densities):
                yield self.volume(positions, densities, box or self.configuration.box)

    @torch.no_grad()
    def project(
        self,
        z: np.ndarray | torch.Tensor,  # (B, zdim)
        rotations: np.ndarray | torch.Tensor,  # (B, 3, 3)
        shifts: np.ndarray | torch.Tensor,  # (B, 2)
        parameters: np.ndarray | torch.Tensor | None = None,  # (B, 9)
    ) -> torch.Tensor:  # (B, D, D)
        """Images of the molecule at latents ``z``, one a pose, in the training box, without noise.

        Parameters
        ----------
        z : one latent an image.
        rotations, shifts : poses as :func:`gaussianem_core.imaging.pose.load_poses` reads them; shifts in pixels.
        parameters : rows of ``ctf.npy``; without them no CTF. With it the protein is dark, as in the published code:
            times -1 they compare with RELION's particles (``configuration.invert_contrast``).
        """
        deformed = self.deform(z)
        rotation, shift = (torch.as_tensor(a, dtype=torch.float32, device=self.device) for a in (rotations, shifts))
        box, gaussians = self.configuration.box, self.gaussians
        images = project(
            deformed.positions,
            deformed.densities,
            gaussians.sigmas,
            rotation,
            shift,
            box,
            backend=self.backend,
            sigma_max=gaussians.scale_max,
        )
        if parameters is None:
            return images
        rows = torch.as_tensor(parameters, dtype=torch.float32, device=self.device)
        return apply_ctf(images, ctf(rows, box))

    def consensus_volume(self, box: int | None = None) -> torch.Tensor:
        """Volume (box, box, box) of the consensus Gaussians plus the detail, by default in the training box."""
        return self.volume(self.gaussians.positions, self.gaussians.densities, box or self.configuration.box)

    def pixel_size(self, box: int) -> float:
        """Voxel size in Angstrom of a volume of ``box`` voxels: the box's length stays."""
        return self.configuration.box * self.configuration.pixel_size_angstrom / box

    def origin(self, box: int) -> tuple[float, float, float]:
        """Position x, y, z (A) of voxel 0 of a volume of ``box`` voxels, so that volumes of any box, and atoms fitted
        to the consensus map, overlay.

        The configuration's ``origin_angstrom`` is that of the consensus map; voxel box // 2 keeps its place.
        """
        base = self.configuration.extra.get("origin_angstrom", (0.0, 0.0, 0.0))
        centre = self.configuration.box // 2 * self.configuration.pixel_size_angstrom
        shift = centre - box // 2 * self.pixel_size(box)
        return (base[0] + shift, base[1] + shift, base[2] + shift)


def load_model(
    cfg: Path | str,
    model_weight: Path | str,
    gaussians: Path | str | None = None,
    mask: Path | str | None = None,
    device: torch.device | str = "auto",
    backend: Projector = "auto",
    log: JobLog | None = None,
    detail: bool = True,
) -> TrainedModel:
    """A trained model from its files, which are checked against each other.

    Parameters
    ----------
    cfg : cfg.json of preprocess.
    model_weight : weights.N.pkl of train. One that holds the Gaussians it was trained with (those of this program do)
        overrules ``gaussians``; one trained with a mask keeps it.
    gaussians : point_cloud.ply, needed for a checkpoint of the published program.
    mask : Gaussians that may move (.npy, .txt or .mrc), beside the mask of the training.
    device : "auto", "cpu", "cuda" or a torch device.
    backend : projector, see :func:`gaussianem_core.imaging.projection.project`.
    log : receives a message where the checkpoint's Gaussians overrule those given.
    detail : False leaves the volumes to the Gaussians alone.

    Raises
    ------
    InputError : a file is missing, damaged or belongs to another configuration.
    ResourceError : "cuda" without a usable GPU.
    """
    if isinstance(device, str):
        device = choose_device(device)
    configuration = load_configuration(cfg)
    content = load_checkpoint(model_weight)
    network = load_network(configuration, content["model_state_dict"]).to(device)
    given = None
    if gaussians is not None:
        given = load_gaussians(gaussians, configuration.scale_min, configuration.scale_max)
    trained = _gaussians_of(content, configuration)
    if trained is not None and given is not None and len(given) != len(trained):
        raise InputError(
            "gaussians",
            f"must hold the {len(trained)} Gaussians of the checkpoint",
            len(given),
            "Use the point_cloud.ply that the model was trained with.",
        )
    if trained is not None and given is not None and log is not None:
        if not torch.equal(given.features, trained.features):
            log.message("The Gaussians were refined in training: those in the checkpoint are used.")
    chosen = trained if trained is not None else given
    if chosen is None:
        raise InputError("gaussians", "must be given: the checkpoint holds none", "nothing", "Give point_cloud.ply.")
    chosen = chosen.to(device)
    movable = None if mask is None else load_mask(mask, chosen, configuration)
    if isinstance(content.get("movable"), torch.Tensor) and content["movable"].shape == (len(chosen),):
        trained_movable = content["movable"].bool().to(device)
        movable = trained_movable if movable is None else movable & trained_movable
    with torch.no_grad():
        embedding = network.embed(chosen)
    stored = content.get("detail") if detail else None
    if not isinstance(stored, torch.Tensor) or stored.shape != (configuration.box,) * 3:
        stored = None
    more = None if stored is None else stored.float().to(device)
    gauge = _gauge_of(content, len(chosen), device)
    return TrainedModel(configuration, chosen, network, embedding, movable, device, backend, more, gauge)


def load_model_of(
    options: AnalyzeOptions | DecodeOptions | EvaluateOptions | MorphOptions | ReconstructOptions,
    mask: Path | None,
    device: torch.device,
    log: JobLog | None = None,
) -> TrainedModel:
    """:func:`load_model` from a job's options cfg, gaussians, model_weight, projector and no_detail.

    The default ``gaussians`` may be absent where the checkpoint holds the Gaussians. ``mask``: path of a mask, or None.

    Raises InputError as :func:`load_model`.
    """
    default = type(options).model_fields["gaussians"].default
    gaussians: Path | None
    try:
        gaussians = resolve_input(options, "gaussians")
    except InputError:
        if options.gaussians != default or "gaussians" not in load_checkpoint(resolve_input(options, "model_weight")):
            raise
        gaussians = None
    return load_model(
        resolve_input(options, "cfg"),
        resolve_input(options, "model_weight"),
        gaussians,
        mask,
        device,
        options.projector,
        log,
        not getattr(options, "no_detail", True),
    )


def _gaussians_of(content: dict[str, Any], configuration: Configuration) -> Gaussians | None:
    stored = content.get("gaussians")
    if not isinstance(stored, dict):
        return None
    try:
        values = [stored[name].float() for name in ("positions", "raw_density", "raw_scale")]
    except (KeyError, AttributeError) as error:
        raise InputError(
            "model_weight",
            "must hold positions, raw_density and raw_scale of its Gaussians",
            error,
            "Use a weights.N.pkl of train.",
        ) from error
    return Gaussians(values[0], values[1], values[2], configuration.scale_min, configuration.scale_max)


def _gauge_of(content: dict[str, Any], count: int, device: torch.device) -> Gauge | None:
    """What the training took away from motions and changes of density; None where it did not."""
    stored = content.get("gauge")
    if not isinstance(stored, dict):
        return None
    try:
        gauge = Gauge(**{name: tensor.float().to(device) for name, tensor in stored.items()})
    except (TypeError, AttributeError) as error:
        raise InputError("model_weight", "must hold a whole gauge", error, "Use a weights.N.pkl of train.") from error
    if gauge.weight.shape != (count,) or gauge.motion.shape != (3 * count, 6):
        raise InputError(
            "model_weight",
            f"must hold the gauge of {count} Gaussians",
            tuple(gauge.weight.shape),
            "Use a weights.N.pkl of train.",
        )
    return gauge


def check_latents(z: np.ndarray, model: TrainedModel, argument: str) -> np.ndarray:  # (B, zdim)
    """``z`` as float32. Raises InputError about ``argument`` if it has no rows, another number of columns than the
    model's latents, or values that are not finite."""
    if z.ndim != 2 or z.shape[1] != model.zdim or not len(z):
        raise InputError(
            argument, f"must have {model.zdim} values a row (zdim)", z.shape, "Use the latents of this model."
        )
    if not np.isfinite(z).all():
        raise InputError(argument, "must be finite", f"row {int(np.argmin(np.isfinite(z).all(axis=1)))}", "Repair it.")
    return z.astype(np.float32)
