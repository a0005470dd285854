"""Ground truth of a simulation: state, pose and composition of every particle, and the exact volume of each state.

``truth.npz`` may also be made by hand for data with class labels only: ``label`` (N,), and ``volumes`` (K, D, D, D),
the true map of label 0, 1, ... where they are known.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.fourier import fourier_crop
from gaussianem_core.imaging.voxelization import voxelize
from gaussianem_core.options import Projector
from gaussianem_core.ranges import RANGES
from gaussianem_core.runtime.files import write_atomically
from gaussianem_core.runtime.readers import NUMBERS, read_npz

SAMPLED_SIGMA_PIXELS = 0.9
"""A Gaussian at least this wide (pixels) is sampled without aliasing: its transform at Nyquist is exp(-4)."""


@dataclass(frozen=True)
class Truth:
    """N particles in F frames of a molecule of A points; any part may be None where it is not known.

    Attributes
    ----------
    label : (N,) class of a particle (composition, or the end state), 0, 1, ...
    state : (N,) place along the motion, 0 to 1; ``periodic``: 1 is 0 again. (N, M) where M parts move independently.
    frame : (N,) or (N, M) frame number. present : (N,) whether the removable part is there.
    positions : (F, A, 3) world units. densities : (A,) peak values, sigmas : (A,) world units.
    removable : (A,) points that are absent where ``present`` is False.
    rotations : (N, 3, 3), shifts : (N, 2) pixels, in the conventions of `pose`.
    volumes : (K, D, D, D) true maps of the labels, for data that are not made of points.
    offset_angstrom : (3,) what was subtracted from the input's coordinates to centre it.
    part : (A,) which of M independent motions moves a point; -1: it stays in frame 0. None: one motion moves all.
    motion_names : (L,), motions : (N, L) values that the latents should predict: angles in degrees where the model has
        them, else places from 0 to 1; NaN where the part that moves is absent.
    ctf : (N, 9) true CTF parameters, as ``ctf.npy``. contrast : (N,) factor of each particle's signal.
    junk : (N,) 0 for a particle, else the kind: 1 noise alone, 2 a fragment, 3 another molecule.
    noise_power : (D//2+1,) power of the noise by shell (orthonormal transform); 1 where it is white.
    given_rotations, given_shifts : as the particles file gives them, with their errors.
    given_defocus_angstrom : (N,) the mean defocus that the particles file gives.
    particle : (I,) whose image each is, where particles have several, as in tilt series; rotations, shifts, ctf,
        contrast and what is given of them then have a row for each of I images. None: the images are the particles.
    ctf_extra : (I, 6) what follows the true CTF parameters (``ctf.EXTRA``), or None.
    """

    label: np.ndarray | None = None
    state: np.ndarray | None = None
    frame: np.ndarray | None = None
    present: np.ndarray | None = None
    positions: np.ndarray | None = None
    densities: np.ndarray | None = None
    sigmas: np.ndarray | None = None
    removable: np.ndarray | None = None
    rotations: np.ndarray | None = None
    shifts: np.ndarray | None = None
    volumes: np.ndarray | None = None
    offset_angstrom: np.ndarray | None = None
    part: np.ndarray | None = None
    motion_names: np.ndarray | None = None
    motions: np.ndarray | None = None
    ctf: np.ndarray | None = None
    contrast: np.ndarray | None = None
    junk: np.ndarray | None = None
    noise_power: np.ndarray | None = None
    given_rotations: np.ndarray | None = None
    given_shifts: np.ndarray | None = None
    given_defocus_angstrom: np.ndarray | None = None
    particle: np.ndarray | None = None
    ctf_extra: np.ndarray | None = None
    box: int = 0
    apix: float = 0.0
    snr: float = 0.0
    periodic: bool = False

    @property
    def has_volumes(self) -> bool:
        """Whether the true volume of each particle can be made."""
        return self.positions is not None or (self.volumes is not None and self.label is not None)

    def particles_of(self, images: np.ndarray) -> np.ndarray:
        """Particles of these images, numbers of images (n,) -> numbers of particles (n,)."""
        return images if self.particle is None else self.particle[images]

    @property
    def real_images(self) -> np.ndarray:  # -> (I,) bool
        """Which images are not junk."""
        return self.real if self.particle is None else self.real[self.particle]

    @property
    def real(self) -> np.ndarray:  # -> (N,) bool
        """Which particles are not junk."""
        count = next(len(v) for v in (self.state, self.label, self.frame, self.present) if v is not None)
        return np.ones(count, bool) if self.junk is None else self.junk == 0


def save_truth(truth: Truth, path: Path | str) -> None:
    """Write ``truth.npz``, atomically. Raises OSError."""
    buffer = io.BytesIO()
    content = {f.name: getattr(truth, f.name) for f in fields(truth)}
    np.savez_compressed(buffer, **{name: value for name, value in content.items() if value is not None})
    write_atomically(path, buffer.getvalue())


def load_truth(path: Path | str) -> Truth:
    """Read ``truth.npz``.

    Raises InputError if it cannot be read, holds neither state nor label, or holds arrays that do not fit together.
    """
    remedy = "Use the truth.npz of simulate."
    known = frozenset(f.name for f in fields(Truth))
    content: dict[str, Any] = dict(read_npz(path, "truth", remedy, known))
    if "state" not in content and "label" not in content:
        raise InputError("truth", "must hold state or label of every particle", path, "Use the file of simulate.")
    for name, kind in (("box", int), ("apix", float), ("snr", float), ("periodic", bool)):
        if name in content:
            if content[name].size != 1 or not np.isfinite(content[name]).all():
                raise InputError("truth", f"must hold {name} as one number", path, remedy)
            content[name] = kind(content[name].item())
    truth = Truth(**content)
    _refuse_contradictions(truth, path, remedy)
    return truth


_SHAPES = {
    "label": ("N",),
    "state": ("N", "NM"),
    "frame": ("N", "NM"),
    "present": ("N",),
    "positions": ("FA3",),
    "densities": ("A",),
    "sigmas": ("A",),
    "removable": ("A",),
    "rotations": ("I33",),
    "shifts": ("I2",),
    "volumes": ("KDDD",),
    "offset_angstrom": ("3",),
    "part": ("A",),
    "motion_names": ("L",),
    "motions": ("NL",),
    "ctf": ("I9",),
    "contrast": ("I",),
    "junk": ("N",),
    "noise_power": ("S",),
    "given_rotations": ("I33",),
    "given_shifts": ("I2",),
    "given_defocus_angstrom": ("I",),
    "particle": ("I",),
    "ctf_extra": ("I6",),
}
"""Shapes of the arrays in ``truth.npz``; a letter is one number everywhere."""


def _refuse_contradictions(truth: Truth, path: Path | str, remedy: str) -> None:
    """Raise InputError for arrays that do not fit together, or numbers of frames and labels that are not there."""

    def demand(holds: bool, rule: str) -> None:
        if not holds:
            raise InputError("truth", rule, path, remedy)

    sizes: dict[str, int] = {}
    for name, shapes in _SHAPES.items():
        values = getattr(truth, name)
        if values is None:
            continue
        letters = next((each for each in shapes if len(each) == values.ndim), None)
        demand(letters is not None and bool(values.size), f"must hold {name} as {' or '.join(shapes)}")
        for letter, size in zip(letters or "", values.shape):
            expected = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            demand(size == expected, f"must hold {name} as {letters} with {letter} = {expected}, not {size}")
        numbers = values.dtype.kind in NUMBERS
        demand(numbers == (name != "motion_names"), f"must hold {name} as {'text' if numbers else 'numbers'}")
        if numbers and name != "motions":  # these are NaN where the part that moves is absent
            demand(bool(np.isfinite(values).all()), f"must hold finite {name}")
    count = sizes.get("N", 0)
    if truth.particle is None:
        demand(sizes.get("I", count) == count, "must hold a row for each particle")
    else:
        inside = truth.particle.dtype.kind in "iu" and 0 <= truth.particle.min() <= truth.particle.max() < count
        demand(inside, "must hold particles that are there")
    if truth.label is not None:
        most = len(truth.volumes) if truth.volumes is not None else 2**31
        demand(bool((truth.label >= 0).all() and (truth.label < most).all()), "must hold a volume for each label")
    if truth.positions is not None:
        demand(truth.densities is not None and truth.sigmas is not None, "must hold densities and sigmas of the points")
        demand(bool(np.all(truth.sigmas > 0)), "must hold sigmas above 0")  # type: ignore[operator]
        frame = truth.frame
        demand(frame is not None and 0 <= frame.min() and frame.max() < sizes["F"], "must hold frames that are there")
        if truth.part is not None:
            motions = frame.shape[1] if frame is not None and frame.ndim > 1 else 1
            demand(-1 <= truth.part.min() and truth.part.max() < motions, "must hold parts with a motion of their own")
        demand(8 <= truth.box <= RANGES["box"].high, "must hold the box")


def oversampling(sigma_pixels: float) -> int:
    """How many times finer a grid must be for Gaussians of this sigma to have SAMPLED_SIGMA_PIXELS on it."""
    return max(1, math.ceil(SAMPLED_SIGMA_PIXELS / sigma_pixels))


def frame_densities(truth: Truth, present: torch.Tensor) -> torch.Tensor:  # (B,) bool -> (B, A)
    """Peak densities of the points, 0 where the removable part is absent."""
    assert truth.densities is not None
    densities = torch.as_tensor(truth.densities, device=present.device).expand(len(present), -1)
    if truth.removable is None:
        return densities
    removable = torch.as_tensor(truth.removable, device=present.device)
    return torch.where(removable & ~present[:, None], torch.zeros_like(densities), densities)


def point_positions(
    truth: Truth, rows: np.ndarray, device: torch.device | str = "cpu"
) -> torch.Tensor:  # (B,) -> (B, A, 3)
    """Positions of the points in particles ``rows``, world units, each part in the frame of its own motion."""
    assert truth.positions is not None and truth.frame is not None
    positions, frame = torch.as_tensor(truth.positions, device=device), torch.as_tensor(truth.frame[rows]).to(device)
    if truth.part is None:
        return positions[frame.long()]
    # A column of zeros stands last, where part -1 finds it: what belongs to no motion stays in frame 0.
    columns = torch.cat([frame.long().view(len(rows), -1), frame.new_zeros(len(rows), 1).long()], dim=1)
    part = torch.as_tensor(truth.part, device=device).long()
    return positions[columns[:, part], torch.arange(len(part), device=device)]


def true_volumes(
    truth: Truth, rows: np.ndarray, box: int, device: torch.device | str = "cpu", backend: Projector = "auto"
) -> torch.Tensor:  # (B,) -> (B, box, box, box)
    """The true volume of particles ``rows``, band-limited to ``box`` voxels, indexed [z, y, x]."""
    if truth.positions is None:
        assert truth.volumes is not None and truth.label is not None
        return fourier_crop(torch.as_tensor(truth.volumes[truth.label[rows]], device=device).float(), box, dims=3)
    assert truth.sigmas is not None
    present = np.ones(len(rows), bool) if truth.present is None else truth.present[rows]
    positions = point_positions(truth, rows, device)
    densities = frame_densities(truth, torch.as_tensor(present, device=device))
    return band_limited_volumes(
        positions, densities, torch.as_tensor(truth.sigmas, device=device), truth.box, box, backend
    )


def mean_volume(truth: Truth, device: torch.device | str = "cpu", backend: Projector = "auto") -> torch.Tensor:
    """The mean (D, D, D) of the volumes of all particles but junk, at the simulation's box: the map of a consensus
    refinement without errors."""
    real = truth.real
    if truth.positions is None:
        assert truth.volumes is not None and truth.label is not None
        counts = np.bincount(truth.label[real], minlength=len(truth.volumes)) / real.sum()
        return torch.as_tensor(np.tensordot(counts, truth.volumes, 1), device=device).float()
    assert truth.frame is not None and truth.sigmas is not None
    frame = truth.frame.reshape(len(truth.frame), -1)[real]
    present = np.ones(len(frame), bool) if truth.present is None else truth.present[real]
    frames, atoms = truth.positions.shape[:2]
    part = torch.as_tensor(np.zeros(atoms) if truth.part is None else truth.part, device=device).long()
    share = torch.zeros(frames, atoms, device=device)  # the sum is linear: weight every frame's points by its share
    for there in (True, False):
        chosen = present == there
        counts = np.zeros((frame.shape[1] + 1, frames))
        counts[:-1] = [np.bincount(column[chosen], minlength=frames) for column in frame.T]
        counts[-1, 0] = chosen.sum()  # of the points that stay in frame 0, where part is -1
        flag = torch.full((1,), there, device=device)
        shares = torch.as_tensor(counts / len(frame), device=device).float()[part].T
        share += shares * frame_densities(truth, flag)
    used = torch.nonzero(share.sum(dim=1)).flatten()
    total = torch.zeros(truth.box, truth.box, truth.box, device=device)
    for chunk in used.split(max(1, 200_000 // atoms)):
        positions = torch.as_tensor(truth.positions, device=device)[chunk].reshape(1, -1, 3)
        sigmas = torch.as_tensor(truth.sigmas, device=device).repeat(len(chunk))
        total += band_limited_volumes(positions, share[chunk].reshape(1, -1), sigmas, truth.box, truth.box, backend)[0]
    return total


def band_limited_volumes(
    positions: torch.Tensor,
    densities: torch.Tensor,
    sigmas: torch.Tensor,
    native_box: int,
    box: int,
    backend: Projector = "auto",
) -> torch.Tensor:  # (B, A, 3), (B, A), (A,) -> (B, box, box, box)
    """Volumes of Gaussians (world units), sampled on a finer grid where they are narrow, then cropped in Fourier space.

    ``native_box``: voxels a side for which they are made; ``box``: those of the volumes.
    """
    factor = oversampling(float(sigmas.min()) * native_box / 2)
    volumes = []
    for centre, density in zip(positions, densities, strict=True):
        fine = voxelize(centre, density, sigmas, native_box * factor, backend=backend)
        volumes.append(fourier_crop(fine, box, dims=3))
    return torch.stack(volumes)
