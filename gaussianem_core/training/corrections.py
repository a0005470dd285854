"""What was found out about the images beside the latents: corrections of pose, contrast and defocus, and junk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from gaussianem_core.io.corrected_particles import write_corrected_star
from gaussianem_core.io.star import find_particle_table, scan_star
from gaussianem_core.job.events import JobLog
from gaussianem_core.training import nuisances
from gaussianem_core.training.grouping import Grouping
from gaussianem_core.training.junk import BROKEN_NATS, Junk
from gaussianem_core.training.problem import Problem, mean_per_unit

FEW = 20
"""Junk images are named by their numbers up to so many."""


class Corrections(NamedTuple):
    """What was found out about N images: nuisances, posterior ``mean`` (N, 7) and ``samples`` (SAMPLES, N, 7) in their
    own units, drawn together with those of the latents; the prior ``widths`` (7,); and which images are ``junk``."""

    mean: torch.Tensor
    samples: torch.Tensor
    widths: torch.Tensor
    junk: Junk


def mean_contrast(found: Corrections) -> torch.Tensor:  # -> ()
    """Mean factor of the signal over all images that are no junk."""
    share = 1 - found.junk.probability
    return ((1 + found.mean[:, nuisances.CONTRAST]) * share).sum() / share.sum().clamp_min(1e-6)


def rescaled(found: Corrections, factor: torch.Tensor) -> Corrections:
    """The same where all densities are multiplied by ``factor``."""

    def divided(q: torch.Tensor) -> torch.Tensor:
        q = q.clone()
        q[..., nuisances.CONTRAST] = (1 + q[..., nuisances.CONTRAST]) / factor - 1
        return q

    return found._replace(mean=divided(found.mean), samples=divided(found.samples))


def real_particles(junk: Junk, group: Grouping) -> torch.Tensor:  # -> (P,) bool
    """Particles that are no junk: an image of theirs, at least, holds them."""
    return group.total((junk.probability < 0.5).int()) > 0


def arrays(found: Corrections, group: Grouping) -> dict[str, np.ndarray]:
    """What the latents file holds of every particle beside its latent: how far pose, contrast and defocus are from
    those given, and whether it is there at all.

    Of particles with several images, poses and the like stand under ``tilt_...`` with a row an image, and
    ``tilt_particle`` says whose image it is; their contrast is the mean.
    """
    q = found.mean.cpu().numpy()
    of_images = {
        "turn_degrees": np.rad2deg(q[:, nuisances.ROTATION]),
        "shift_pixels": q[:, nuisances.SHIFT],
        "contrast": 1 + q[:, nuisances.CONTRAST],
        "defocus_change_angstrom": q[:, nuisances.DEFOCUS],
    }
    junk = {"junk_probability": found.junk.probability, "junk_log_odds": -found.junk.evidence}
    if group.single:
        return of_images | {name: value.cpu().numpy() for name, value in junk.items()}
    # A broken image says nothing about the others of its particle, which have the particle's verdict.
    whole = (found.junk.evidence > -BROKEN_NATS).float()
    counted = torch.where(group.images(group.total(whole)) > 0, whole, 1.0)

    def mean(value: torch.Tensor) -> np.ndarray:  # (N,) -> (P,)
        return np.asarray((group.total(value * counted) / group.total(counted)).cpu().numpy())

    of_particles = {"contrast": mean(1 + found.mean[:, nuisances.CONTRAST])}
    of_particles |= {name: mean(value) for name, value in junk.items()}
    of_images |= {"particle": group.particle.cpu().numpy()}
    return of_particles | {f"tilt_{name}": value for name, value in of_images.items()}


def estimated_kinds(widths: torch.Tensor) -> set[str]:  # (7,)
    """Kinds of errors (``nuisances.KINDS``) that the images show: their widths are above the least."""
    return kinds_above([1.001 * least for least in nuisances.LEAST], widths)


def kinds_at_most(widths: torch.Tensor) -> set[str]:  # (7,)
    """Kinds of errors whose widths are the greatest that are allowed."""
    return kinds_above([0.999 * most for most in nuisances.MOST], widths)


def kinds_above(bounds: Sequence[float], widths: torch.Tensor) -> set[str]:  # a bound a kind, (7,)
    """Kinds of errors whose widths exceed their ``bounds``."""
    kinds = zip(widths.tolist(), nuisances.KIND)
    return {nuisances.KINDS[kind] for width, kind in kinds if width > bounds[kind]}


def report(found: Corrections, group: Grouping, unit: np.ndarray, weighs_junk: bool, log: JobLog) -> None:
    """Say in numbers what was corrected, over the images that are no junk, and how many are junk. ``unit`` (N,): which
    image, or particle of a tilt series, each row belongs to."""
    what = "images" if group.single else "particles"
    real = found.junk.probability < 0.5
    junk_images = np.flatnonzero(mean_per_unit(found.junk.probability.cpu().numpy(), unit) >= 0.5)
    images = len(np.unique(unit))
    rms = found.mean[real].square().mean(0).sqrt().cpu().numpy()
    width = found.widths.cpu().numpy()
    turn, shift = nuisances.ROTATION, nuisances.SHIFT
    values = {
        "rotation_degrees": float(np.rad2deg(np.sqrt(np.square(rms[turn]).sum()))),
        "rotation_prior_degrees": float(np.rad2deg(np.sqrt(np.square(width[turn]).sum()))),
        "shift_pixels": float(np.sqrt(np.square(rms[shift]).mean())),
        "shift_prior_pixels": float(width[shift][0]),
        "contrast": float(rms[nuisances.CONTRAST]),
        "contrast_prior": float(width[nuisances.CONTRAST]),
        "defocus_angstrom": float(rms[nuisances.DEFOCUS]),
        "defocus_prior_angstrom": float(width[nuisances.DEFOCUS]),
        "junk_images": float(len(junk_images)),
        "junk_share": len(junk_images) / images,
    }
    log.metric("corrections", 0, 0.0, **values)
    told = estimated_kinds(found.widths)
    words = {
        "out of plane": f"orientations by {values['rotation_degrees']:.2f} degrees rms, of an error estimated at "
        f"{values['rotation_prior_degrees']:.2f}",
        "shift": f"offsets by {values['shift_pixels']:.2f} px, of {values['shift_prior_pixels']:.2f}",
        "contrast": f"contrast, which varies by {100 * values['contrast_prior']:.0f} %",
        "defocus": f"defocus by {values['defocus_angstrom']:.0f} A, of {values['defocus_prior_angstrom']:.0f}",
    }
    said = [words[kind] for kind in words if kind in told]
    log.message(
        f"corrected: {'; '.join(said)}" if said else "no error of poses, contrast or defocus shows: none is corrected"
    )
    if at_limit := [kind for kind in nuisances.KINDS[:3] if kind in kinds_at_most(found.widths)]:
        log.message(
            f"errors of poses ({', '.join(at_limit)}) are estimated at the most that is allowed: corrections may be "
            "motion in part; refine the poses first, or hold them by --hold_rotations and --hold_shifts",
            "warning",
        )
    if weighs_junk:
        numbers = (junk_images + 1).tolist()
        which = f": {', '.join(map(str, numbers))}" if 0 < len(numbers) <= FEW else ""
        log.message(f"{what} that hold no such particle: {len(numbers):,} of {images:,}{which}")


def write_particles(
    found: Corrections, problem: Problem, source: Path, out: Path, rows: np.ndarray | None, log: JobLog
) -> None:
    """``out``/particles.star: ``source`` with the corrected poses and defocus, where it lists the particles.

    ``rows``: numbers of the particles among those that it lists, where they are a part of them.
    """
    if not source.is_file():
        return
    if rows is None and find_particle_table(scan_star(source)).n_rows != problem.count:
        return
    told, q = estimated_kinds(found.widths), found.mean
    poses = nuisances.corrected(problem.views, q).rotations.cpu().double().numpy()
    shift = q[:, nuisances.SHIFT].cpu().double().numpy() * problem.configuration.pixel_size_angstrom
    defocus = q[:, nuisances.DEFOCUS].cpu().double().numpy()
    written = write_corrected_star(
        source,
        out / "particles.star",
        rows,
        poses if {"out of plane", "in plane"} & told else None,
        shift if "shift" in told else None,
        defocus if "defocus" in told else None,
    )
    log.artifact("particles", out / "particles.star", "particles with corrected poses", particles=written)
