"""Corrections of the images' poses, contrast and defocus, and which images are junk: their arrays, report and files."""

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
"""Largest number of junk images that the report names one by one."""


class Corrections(NamedTuple):
    """Nuisances of N images (see ``nuisances``) and which images are ``junk``.

    mean : (N, 7) posterior means: turn (radians, 3), shift (pixels, 2), contrast - 1, change of defocus (Angstrom).
    samples : (SAMPLES, N, 7) drawn from the posterior together with the samples of the latents, in the same units.
    widths : (7,) standard deviations of the prior, in the same units; 0 where a number is held as given.
    """

    mean: torch.Tensor
    samples: torch.Tensor
    widths: torch.Tensor
    junk: Junk


def mean_contrast(found: Corrections) -> torch.Tensor:  # -> ()
    """Mean contrast of all images, each weighted by its probability of being no junk."""
    share = 1 - found.junk.probability
    return ((1 + found.mean[:, nuisances.CONTRAST]) * share).sum() / share.sum().clamp_min(1e-6)


def rescaled(found: Corrections, factor: torch.Tensor) -> Corrections:
    """The corrections after all densities were multiplied by ``factor`` (): contrasts are divided by it."""

    def divided(q: torch.Tensor) -> torch.Tensor:
        q = q.clone()
        q[..., nuisances.CONTRAST] = (1 + q[..., nuisances.CONTRAST]) / factor - 1
        return q

    return found._replace(mean=divided(found.mean), samples=divided(found.samples))


def real_particles(junk: Junk, group: Grouping) -> torch.Tensor:  # -> (P,) bool
    """Particles of which at least one image has a probability of junk below one half."""
    return group.total((junk.probability < 0.5).int()) > 0


def arrays(found: Corrections, group: Grouping) -> dict[str, np.ndarray]:
    """Arrays of the latents file beside the latents: changes of pose, contrast and defocus, and evidence of junk.

    Where each image is a particle, one row a particle: ``turn_degrees`` (N, 3), ``shift_pixels`` (N, 2), ``contrast``
    (N,), ``defocus_change_angstrom`` (N,), ``junk_probability`` (N,) and ``junk_log_odds`` (N,). Of particles with
    several images, the first four are named ``tilt_...`` and have one row an image, ``tilt_particle`` (N,) is the
    particle's number, and ``contrast``, ``junk_probability`` and ``junk_log_odds`` (P,) are means over its images,
    broken ones left out where it has others.
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
    """Kinds of errors (of ``nuisances.KINDS``) whose estimated widths are above ``nuisances.LEAST``."""
    return kinds_above([1.001 * least for least in nuisances.LEAST], widths)


def kinds_at_most(widths: torch.Tensor) -> set[str]:  # (7,)
    """Kinds of errors whose estimated widths have reached ``nuisances.MOST``."""
    return kinds_above([0.999 * most for most in nuisances.MOST], widths)


def kinds_above(bounds: Sequence[float], widths: torch.Tensor) -> set[str]:  # a bound a kind, (7,)
    """Kinds of errors whose widths exceed their ``bounds``."""
    kinds = zip(widths.tolist(), nuisances.KIND)
    return {nuisances.KINDS[kind] for width, kind in kinds if width > bounds[kind]}


def report(found: Corrections, group: Grouping, unit: np.ndarray, weighs_junk: bool, log: JobLog) -> None:
    """Log the root mean square corrections of the images that are no junk, the prior widths, and the number of junk.

    ``unit`` (N,): number of the image, or of the particle of a tilt series, that each row belongs to. ``weighs_junk``:
    whether the log names junk images.
    """
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
    """Write ``out``/particles.star: the particles of ``source`` with corrected poses and defocus.

    ``rows`` (N,): rows of ``source`` that were trained on; None for all. Nothing is written where ``source`` is no
    file, or, without ``rows``, lists another number of particles. Only kinds that :func:`estimated_kinds` names are
    changed.
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
