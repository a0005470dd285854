"""Which particle each image shows: in tilt series one particle has many images.

Given the latent, the images of a particle are independent, so the log-likelihood of the latent is a sum of quadratics
over the particle's images (see ``mixture_prior``). Pose, CTF, noise and nuisances belong to the image; the latent, the
half set and the verdict of junk belong to the particle. Where each image is a particle, sums over images are the
images' values themselves and cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Grouping:
    """``particle`` (N,): which of ``count`` particles each of N images shows, numbered from 0 without gaps; ``single``:
    whether image i is particle i."""

    particle: torch.Tensor
    count: int
    single: bool

    @classmethod
    def of(cls, particle: npt.NDArray[np.integer], device: torch.device | str = "cpu") -> Grouping:
        """The grouping of N images by their particles' numbers (N,), in any order and with gaps; particles are ordered
        by their numbers."""
        unique, place = np.unique(particle, return_inverse=True)
        place = place.reshape(-1).astype(np.int64)
        return cls(torch.from_numpy(place).to(device), len(unique), np.array_equal(place, np.arange(len(place))))

    @property
    def sizes(self) -> torch.Tensor:  # (P,)
        """Number of images of each particle."""
        if self.single:  # a count would make the host wait for the GPU
            return torch.ones_like(self.particle)
        return torch.bincount(self.particle, minlength=self.count)

    @property
    def first(self) -> torch.Tensor:  # (P,)
        """The first image of each particle."""
        images = torch.arange(len(self.particle), device=self.particle.device)
        if self.single:
            return images
        return torch.full_like(images[: self.count], len(images)).scatter_reduce_(0, self.particle, images, "amin")

    def total(self, values: torch.Tensor) -> torch.Tensor:  # (N, ...) -> (P, ...)
        """Sum over the images of each particle."""
        if self.single:
            return values
        return values.new_zeros(self.count, *values.shape[1:]).index_add_(0, self.particle, values)

    def most(self, values: torch.Tensor) -> torch.Tensor:  # (N,) -> (N,)
        """For each image the largest value over the images of its particle."""
        if self.single:
            return values
        largest = torch.full_like(values[: self.count], -torch.inf)
        return largest.scatter_reduce_(0, self.particle, values, "amax")[self.particle]

    def images(self, values: torch.Tensor) -> torch.Tensor:  # (P, ...) -> (N, ...)
        """For each image the value of its particle."""
        return values if self.single else values[self.particle]

    def rows(self, chosen: torch.Tensor) -> Grouping:  # indices or mask
        """The grouping of the images ``chosen``, indices (n,) or a mask (N,), with their particles numbered anew."""
        kept = self.particle[chosen]
        if self.single:
            return Grouping(torch.arange(len(kept), device=kept.device), len(kept), True)
        return Grouping.of(kept.cpu().numpy(), kept.device)


@dataclass(frozen=True)
class Members:
    """The images of each of P particles, on the host: ``images`` (N,), numbers of the images ordered by particle;
    ``begin`` (P + 1,): particle p has images[begin[p]:begin[p + 1]]."""

    images: Numbers
    begin: Numbers

    @classmethod
    def of(cls, group: Grouping) -> Members:
        """The members of the particles of ``group``."""
        particle = group.particle.cpu().numpy()
        begin = np.concatenate([[0], np.bincount(particle, minlength=group.count).cumsum()])
        return cls(np.argsort(particle, kind="stable"), begin)

    def sizes(self, particles: Numbers) -> Numbers:
        """Numbers of images (p,) of ``particles`` (p,)."""
        return self.begin[particles + 1] - self.begin[particles]

    def rows(self, particles: Numbers) -> Numbers:
        """Indices (n,) of all images of ``particles`` (p,), one particle after the other."""
        sizes = self.sizes(particles)
        within = np.arange(sizes.sum()) - np.repeat(sizes.cumsum() - sizes, sizes)
        return self.images[np.repeat(self.begin[particles], sizes) + within]

    def batches(self, particles: Numbers, images: int) -> list[Numbers]:
        """``particles`` (p,) cut into runs of at least one particle that have at most ``images`` images, or one
        particle's."""
        ends = self.sizes(particles).cumsum()
        runs, begin = [], 0
        while begin < len(particles):
            done = ends[begin - 1] if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, done + images, side="right")))
            runs.append(particles[begin:end])
            begin = end
        return runs


def placed(sizes: Numbers, device: torch.device) -> Grouping:
    """The grouping of a batch of whole particles, one after the other, with ``sizes`` (p,) images."""
    if (sizes == 1).all():  # made on the device, which need not wait for the host
        return Grouping(torch.arange(len(sizes), device=device), len(sizes), True)
    particle = np.repeat(np.arange(len(sizes)), sizes)
    return Grouping(torch.from_numpy(particle).to(device), len(sizes), False)
