"""The consensus Gaussians: raw parameters, densities and widths, their PLY file, and masks of those that may move.

Raw values are optimised and stored: ``density = softplus(raw density)`` and
``sigma = scale_min + (scale_max - scale_min) * sigmoid(raw scale)`` in world units ([-1, 1] across the box). The
configuration's ``scale_min`` and ``scale_max`` are fractions of the box; world bounds are those times ``sVoxel`` (2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from gaussianem_core.errors import InputError, ResultError
from gaussianem_core.io.mrc import read_map
from gaussianem_core.io.ply import read_points, write_points
from gaussianem_core.model.configuration import LENGTH_TOLERANCE, Configuration
from gaussianem_core.runtime.readers import read_npy, read_rows

PLY_FIELDS = ("x", "y", "z", "nx", "ny", "nz", "density", "scale_0", "rot_0", "rot_1", "rot_2", "rot_3")


@dataclass(frozen=True)
class Gaussians:
    """N isotropic Gaussians, raw parameters as stored.

    positions : (N, 3) x, y, z in world units.
    raw_density : (N,), density before softplus.
    raw_scale : (N,), width before sigmoid.
    scale_min, scale_max : bounds of sigma in world units.
    """

    positions: torch.Tensor
    raw_density: torch.Tensor
    raw_scale: torch.Tensor
    scale_min: float
    scale_max: float

    def __len__(self) -> int:
        return self.positions.shape[0]

    @property
    def densities(self) -> torch.Tensor:  # (N,)
        """Peak density of each Gaussian, positive: (N,)."""
        return torch.nn.functional.softplus(self.raw_density)

    @property
    def sigmas(self) -> torch.Tensor:  # (N,), world units
        """Width (sigma) of each Gaussian (N,), world units."""
        return self.scale_min + (self.scale_max - self.scale_min) * torch.sigmoid(self.raw_scale)

    @property
    def features(self) -> torch.Tensor:  # (N, 5): what the Gaussian encoder sees
        """Raw density, raw scale and position x, y, z of each Gaussian: (N, 5), the input of the Gaussian encoder."""
        return torch.cat([self.raw_density[:, None], self.raw_scale[:, None], self.positions], dim=1)

    def to(self, device: torch.device | str) -> Gaussians:
        """The same Gaussians on another device."""
        return replace(
            self,
            positions=self.positions.to(device),
            raw_density=self.raw_density.to(device),
            raw_scale=self.raw_scale.to(device),
        )


def inverse_softplus(value: torch.Tensor) -> torch.Tensor:
    """x with softplus(x) = ``value``, element by element; values are positive, of any shape."""
    return value + torch.log(-torch.expm1(-value))


def scale_densities(gaussians: Gaussians, factor: float | torch.Tensor) -> Gaussians:
    """The Gaussians with all densities times ``factor`` (positive); densities stay above 1e-6."""
    return replace(gaussians, raw_density=inverse_softplus((gaussians.densities * factor).clamp_min(1e-6)))


def load_gaussians(path: Path | str, scale_min: float, scale_max: float) -> Gaussians:
    """Read ``point_cloud.ply``; bounds of sigma in world units come from the configuration.

    Raises InputError if the file is no PLY, lacks a property, or holds no Gaussians or values that are not finite.
    """
    fields = ("x", "y", "z", "density", "scale_0")
    columns = read_points(path, "gaussians", fields, "Use the point_cloud.ply of preprocess.")
    values = np.stack(list(columns.values()))
    if not np.isfinite(values).all() or values.shape[1] == 0:
        raise InputError("gaussians", "must hold Gaussians and finite values", path, "Run preprocess again.")
    data = torch.from_numpy(values)
    return Gaussians(data[:3].T.contiguous(), data[3].clone(), data[4].clone(), scale_min, scale_max)


def write_gaussians(gaussians: Gaussians, path: Path | str) -> None:
    """Write binary PLY with the published properties, atomically. Normals are 0, the rotation the identity.

    Raises ResultError if a value is NaN or infinite: what stands at ``path`` stays.
    """
    table = np.zeros(len(gaussians), dtype=[(name, "<f4") for name in PLY_FIELDS])
    g = gaussians.to("cpu")
    for axis, name in enumerate("xyz"):
        table[name] = g.positions[:, axis].detach().numpy()
    table["density"], table["scale_0"] = g.raw_density.detach().numpy(), g.raw_scale.detach().numpy()
    table["rot_0"] = 1.0
    if not all(np.isfinite(table[name]).all() for name in PLY_FIELDS):
        raise ResultError(
            f"{path}: the Gaussians hold NaN or infinite values. Nothing was written; check poses, CTF and images."
        )
    write_points(path, table)


def load_mask(path: Path | str, gaussians: Gaussians, configuration: Configuration) -> torch.Tensor:  # -> (N,) bool
    """Read which Gaussians may move: 0 or 1 for each (.npy or .txt), or an MRC mask, taken at their positions (> 0.5).

    An MRC mask must be a cube that spans the consensus map's length, in any box.

    Raises InputError if the file cannot be read, the count or the length differs, a value is neither 0 nor 1, or no
    Gaussian is left to move.
    """
    path = Path(path)
    if path.suffix in (".npy", ".txt"):
        rule, remedy = f"must be {len(gaussians)} values 0 or 1, one a Gaussian", "Make the mask from these Gaussians."
        values = read_npy(path, "mask", remedy) if path.suffix == ".npy" else read_rows(path, "mask", remedy, ndmin=1)
        if values.shape != (len(gaussians),):
            raise InputError("mask", rule, f"the shape {values.shape}", remedy)
        if (other := values[~np.isin(values, (0, 1))]).size:
            raise InputError("mask", rule, f"{other[0]:g}", remedy)
        mask = torch.from_numpy(values.astype(bool))
    else:
        read = read_map(path)
        volume, pixel = torch.from_numpy(read.values), read.pixel_size_angstrom
        box = volume.shape[-1]
        length = configuration.box * configuration.pixel_size_angstrom
        # Programs that write no pixel size leave 0 or 1 in the header.
        told = np.isfinite(pixel) and abs(pixel - 1.0) > 1e-3
        if len(set(volume.shape)) != 1 or (told and abs(box * pixel / length - 1) > LENGTH_TOLERANCE):
            raise InputError(
                "mask",
                f"must be a cube of {length:.1f} A, as the consensus map",
                f"{' x '.join(map(str, volume.shape))} voxels of {pixel:.4g} A",
                "Make the mask on the consensus map's grid.",
            )
        index = (box // 2 + gaussians.positions.cpu() * box / 2).round().long()
        inside = ((index >= 0) & (index < box)).all(dim=1)
        x, y, z = index.clamp(0, box - 1).T
        mask = (volume[z, y, x] > 0.5) & inside
    if not mask.any():
        raise InputError("mask", "must leave at least one Gaussian to move", path, "Check the mask's grid and values.")
    return mask.to(gaussians.positions.device)
