"""How images and map are to be treated: what the particle file claims, checked against the images themselves.

The images are compared with projections of the consensus map (see ``imaging.image_evidence``). Where they contradict
the file by more than ``SURE`` standard errors, the images decide and a warning is given; elsewhere the file decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from gaussianem_core.imaging.aberrations import FLOOR, WORDS, Aberrations, State
from gaussianem_core.imaging.correction import contrast
from gaussianem_core.imaging.ctf import COLUMNS
from gaussianem_core.imaging.image_evidence import (
    LEAST_IMAGES,
    SURE,
    Explanation,
    Products,
    explain,
    explanations,
    margin,
)
from gaussianem_core.imaging.projection import Projector, project
from gaussianem_core.io.corrected_images import CorrectedImages, ctf_parameters
from gaussianem_core.io.image_stack import ImageStack
from gaussianem_core.io.particle_table import ParticleTable
from gaussianem_core.job.events import JobLog
from gaussianem_core.model.gaussians import Gaussians
from gaussianem_core.runtime.streams import stream

IMAGES, PIXELS = 256, 1 << 23
"""Images of the sample, and their pixels in all, at most."""

SET_IMAGES = 40
"""Images of an optics group that the sample needs for the group to be judged on its own."""

MIRRORS = ((2,), (1,), (0,), (0, 1, 2))
"""Axes (x, y, z) whose reversal gives the other hand: programs reverse one, or all."""

OBJECT_SCALES = (0.9, 0.95, 0.97, 0.985, 1.015, 1.03, 1.05, 1.1)
CTF_SCALES = tuple(np.round(1.02 ** np.arange(-11, 12), 4).tolist())


@dataclass(frozen=True)
class Treatment:
    """What :func:`decide` found.

    Attributes
    ----------
    aberrations : as they are to be corrected.
    white : whether the protein is white in the images.
    mirror : axes (x, y, z as 0, 1, 2) along which the map is to be reversed.
    middle : reverse about the middle of the box, half a voxel beside the centre voxel D//2; else about that voxel.
    """

    aberrations: Aberrations
    white: bool
    mirror: tuple[int, ...] = ()
    middle: bool = False


@dataclass(frozen=True)
class Sample:
    """A sample of n particles and what projects to their images.

    Attributes
    ----------
    rows : (n,) row numbers of the table. rotations : (n, 3, 3). shifts : (n, 2) px of ``box``.
    """

    rows: npt.NDArray[np.int64]
    gaussians: Gaussians
    rotations: torch.Tensor
    shifts: torch.Tensor
    box: int
    backend: Projector

    @torch.no_grad()
    def spectra(self, change: Callable[[torch.Tensor], torch.Tensor] = lambda positions: positions) -> torch.Tensor:
        """Spectra (n, D, D//2+1) of the projections, the Gaussians' positions (M, 3) replaced by ``change`` of them."""
        g = self.gaussians
        images = project(
            change(g.positions),
            g.densities,
            g.sigmas,
            self.rotations,
            self.shifts,
            self.box,
            backend=self.backend,
            sigma_max=g.scale_max,
        )
        return torch.fft.rfft2(images, norm="ortho")


def decide(
    table: ParticleTable,
    images: ImageStack,
    gaussians: Gaussians,
    rotations: npt.NDArray[np.floating],
    shifts: Callable[[Aberrations], npt.NDArray[np.floating]],
    box: int,
    pixel: float,
    white: bool,
    backend: Projector,
    seed: int,
    log: JobLog,
) -> Treatment:
    """Determine the treatment from a sample of the images; contradictions with the file are reported as warnings.

    Parameters
    ----------
    gaussians : those of the consensus map, densities on any scale.
    rotations : (N, 3, 3) of the particles.
    shifts : particles' offsets (N, 2) in pixels of ``pixel`` A, given the aberrations.
    box, pixel : box (px) and pixel size (A) in which images are compared.
    white : whether the protein is white, as the user gave it.

    Returns
    -------
    The treatment; what file and user say where there are fewer than ``LEAST_IMAGES`` images.
    """
    claimed = table.aberrations
    rows, judged = choose_rows(table, box, seed)
    device = gaussians.positions.device

    def sample_for(aberrations: Aberrations) -> Sample:
        arrays = [torch.from_numpy(a[rows].astype(np.float32)).to(device) for a in (rotations, shifts(aberrations))]
        return Sample(rows, gaussians, arrays[0], arrays[1], box, backend)

    def images_for(aberrations: Aberrations) -> tuple[torch.Tensor, torch.Tensor]:
        """Spectra of the sample's images, nothing but magnification and odd phase taken off, and their CTFs."""
        raw = replace(aberrations, state=np.zeros_like(aberrations.state), floor=np.zeros_like(aberrations.floor))
        parameters = ctf_parameters(table, raw, box, pixel)
        corrected = CorrectedImages(images, raw, parameters, box, pixel).read(rows)
        spectra = torch.fft.rfft2(corrected.to(device), norm="ortho")
        return spectra, contrast(torch.from_numpy(parameters[rows]).to(device), box)

    if len(rows) < LEAST_IMAGES:
        return Treatment(claimed, white)
    aberrations = claimed
    for turned in (turn_magnification, turn_phases):
        aberrations = _turned(aberrations, turned, sample_for, images_for, log)
    sample = sample_for(aberrations)
    spectra, transfers = images_for(aberrations)
    products = Products.of(sample.spectra(), spectra)
    states, floors = claimed.state[claimed.group], claimed.floor[claimed.group]
    signs = np.ones(len(table))
    for rows_of_set, asked in judged:
        found = explanations(products.rows(torch.from_numpy(asked)), transfers[asked])
        said = State(int(states[rows_of_set[0]]))
        best = _state(found, said, white, len(rows_of_set) < len(table), log)
        states[rows_of_set] = best.state
        floors[rows_of_set] = (best.leak / (1 - best.leak)) ** 0.5 if best.state is State.PREMULTIPLIED else 0.0
        signs[rows_of_set] = best.sign
    is_white = bool(signs.sum() > 0)
    signs = signs if is_white else -signs
    aberrations = with_states(aberrations, states, np.where(floors > 0, np.maximum(floors, FLOOR), 0.0))
    aberrations = replace(aberrations, scale=aberrations.scale * signs)  # where a part has the other contrast
    turn = torch.from_numpy(signs[rows]).to(spectra.real)[:, None, None]
    explained = _Explained(spectra * turn, transfers, states[rows], 1 if is_white else -1)
    products = products._replace(cross=products.cross * turn)
    mirror, middle = find_mirror(sample, products, explained, box, log)
    if not mirror:
        check_scales(sample, products, explained, pixel, table, aberrations, log)
    return Treatment(aberrations, is_white, mirror, middle)


def choose_rows(
    table: ParticleTable, box: int, seed: int
) -> tuple[npt.NDArray[np.int64], list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]]:
    """A random sample of rows (n,), and the sets to judge: the rows of each, and their places in the sample.

    The largest optics groups are judged on their own, the others together, each state that the file claims apart.
    """
    most = min(IMAGES, max(LEAST_IMAGES, PIXELS // box**2), len(table))
    claimed = table.aberrations.state[table.aberrations.group].astype(np.int64)
    groups, group = np.unique(table.optics_group, return_inverse=True)
    own = np.argsort(-np.bincount(group.reshape(-1)))[: max(1, most // SET_IMAGES)]
    rank = np.full(len(groups), len(own))
    rank[own] = np.arange(len(own))
    key = rank[group.reshape(-1)] * len(State) + claimed
    sets = [np.flatnonzero(key == value) for value in np.unique(key)]
    generator = stream(seed, "images looked at")
    chosen, judged, start = [], [], 0
    for rows in sets:
        share = min(len(rows), max(LEAST_IMAGES, most * len(rows) // len(table), most // (2 * len(sets))))
        chosen.append(np.sort(generator.permutation(rows)[:share]))
        judged.append((rows, np.arange(start, start + share)))
        start += share
    return np.concatenate(chosen), judged


def with_states(
    aberrations: Aberrations, states: npt.NDArray[np.int8], floors: npt.NDArray[np.float64]
) -> Aberrations:  # (N,), (N,)
    """The aberrations with state and floor of each particle; groups whose particles differ in them are split."""
    key = np.stack([aberrations.group.astype(np.float64), states, floors], axis=1)
    unique, group = np.unique(key, axis=0, return_inverse=True)
    old = unique[:, 0].astype(int)
    return Aberrations(
        group.reshape(-1).astype(np.int32),
        aberrations.magnification[old],
        aberrations.odd_zernike[old],
        aberrations.even_zernike[old],
        unique[:, 1].astype(np.int8),
        aberrations.bfactor_angstrom2,
        aberrations.scale,
        unique[:, 2],
        aberrations.dose,
        aberrations.weighted,
    )


# ---- what the images are -----------------------------------------------------------------------------------------


def _state(found: Sequence[Explanation], said: State, white: bool, partly: bool, log: JobLog) -> Explanation:
    """The explanation to go by, and what is to be said of it."""
    best, sign = found[0], 1 if white else -1
    as_said = next(e for e in found if e.state is said)
    where = "a part of the images" if partly else "the images"
    seen = margin(best.gain, torch.zeros_like(best.gain)) > SURE  # elsewhere nothing tells signs and states
    if seen and best.state is not said and (sure := margin(best.log_likelihood, as_said.log_likelihood)) > SURE:
        log.message(
            f"{where} are {WORDS[best.state]}, although the particle file has them {WORDS[said]} ({sure:.0f} standard "
            "errors): they are treated as what they are",
            "warning",
        )
    else:
        best = as_said
        if said is not State.RAW:
            log.message(f"{where} are {WORDS[said]}, as the particle file has them")
    other = next(e for e in found if e.state is best.state and e.sign != best.sign)
    if best.sign != sign:
        sure = margin(best.log_likelihood, other.log_likelihood)
        if sure <= SURE or not seen:
            return next(e for e in found if e.state is best.state and e.sign == sign)
        colour = "white" if best.sign > 0 else "dark"
        option = "--no_invert is left out" if best.sign > 0 else "taken so, as with --no_invert"
        log.message(f"the protein is {colour} in {where} ({sure:.0f} standard errors): {option}", "warning")
    return best


# ---- which way matrices and phases go ----------------------------------------------------------------------------


def turn_magnification(aberrations: Aberrations) -> list[tuple[str, Aberrations]]:
    """Other readings of the magnification matrices, each with its description; none where all are the identity."""
    if not aberrations.magnified.any():
        return []
    one = np.broadcast_to(np.eye(2), aberrations.magnification.shape).copy()
    inverse = np.asarray(np.linalg.inv(aberrations.magnification), np.float64)
    return [
        (
            "the inverse of the magnification matrix (rlnMagMat, ctf/anisomag)",
            replace(aberrations, magnification=inverse),
        ),
        ("no anisotropic magnification (rlnMagMat, ctf/anisomag)", replace(aberrations, magnification=one)),
    ]


def turn_phases(aberrations: Aberrations) -> list[tuple[str, Aberrations]]:
    """Other readings of the odd aberrations, each with its description; none where there are no odd aberrations."""
    odd = aberrations.odd_zernike
    if not odd.any():
        return []
    return [
        ("the opposite sign of beam tilt and odd aberrations", replace(aberrations, odd_zernike=-odd)),
        ("no beam tilt and odd aberrations", replace(aberrations, odd_zernike=0 * odd)),
    ]


def _turned(
    aberrations: Aberrations,
    turned: Callable[[Aberrations], list[tuple[str, Aberrations]]],
    sample_for: Callable[[Aberrations], Sample],
    images_for: Callable[[Aberrations], tuple[torch.Tensor, torch.Tensor]],
    log: JobLog,
) -> Aberrations:
    """The aberrations as the file has them, or as the images surely fit better."""
    others = turned(aberrations)
    if not others:
        return aberrations

    def gain(tried: Aberrations) -> torch.Tensor:
        spectra, transfers = images_for(tried)
        # images differ between the meanings, so what the projections explain of each is compared, not the likelihood
        return explanations(Products.of(sample_for(tried).spectra(), spectra), transfers)[0].gain

    as_said = gain(aberrations)
    for words, tried in others:
        sure = margin(gain(tried), as_said)
        if sure > SURE:
            log.message(
                f"the images fit {words} better than the particle file's own ({sure:.0f} standard errors): taken so",
                "warning",
            )
            return tried
    return aberrations


# ---- the map -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Explained:
    """Images (spectra) with their CTFs and states (n,), and the sign of the protein."""

    spectra: torch.Tensor
    transfers: torch.Tensor
    states: npt.NDArray[np.int8]
    sign: int

    def gain(self, projections: torch.Tensor) -> torch.Tensor:  # (n, D, D//2+1) -> (n,)
        """What projections (spectra) explain of each image, in nats."""
        return self.gain_of(Products.of(projections, self.spectra), self.transfers)

    def gain_of(self, products: Products, transfers: torch.Tensor) -> torch.Tensor:  # (n,)
        """What projections explain of each image through these CTFs, in nats; ``products``: of both."""
        total = torch.zeros(len(transfers), device=transfers.device)
        states = np.unique(self.states)
        for state in states:
            all_alike = len(states) == 1  # then nothing is copied
            own = slice(None) if all_alike else torch.from_numpy(np.flatnonzero(self.states == state))
            leak = 0.01 if state == State.PREMULTIPLIED else 0.0
            found = explain(products.rows(own), transfers[own], State(int(state)), leak)
            total[own] = next(e for e in found if e.sign == self.sign).gain
        return total


def find_mirror(
    sample: Sample, products: Products, explained: _Explained, box: int, log: JobLog
) -> tuple[tuple[int, ...], bool]:
    """Axes (x, y, z) along which the map must be reversed to fit the poses, and whether about the middle of the box.

    ``products``: of the images and the projections of the map as it is. No axes where no mirrored map fits better by
    more than SURE standard errors.
    """
    as_given = explained.gain_of(products, explained.transfers)
    best: tuple[int, ...] = ()
    middle, most = False, as_given
    for axes in MIRRORS:
        sign = torch.ones(3, device=as_given.device)
        sign[list(axes)] = -1.0
        for beside in (False, True):
            shift = (sign < 0) * (2.0 / box if beside else 0.0)
            now = explained.gain(sample.spectra(lambda positions, s=sign, d=shift: positions * s - d))  # type: ignore[misc]
            if now.sum() > most.sum():
                best, middle, most = axes, beside, now
    sure = margin(most, as_given)
    if not best or sure <= SURE:
        return (), False
    log.message(
        f"the map has the other hand than the particles' poses ({sure:.0f} standard errors): it is mirrored along "
        f"{', '.join('xyz'[axis] for axis in best)}, so that volumes have the hand of the poses",
        "warning",
    )
    return best, middle


def check_scales(
    sample: Sample,
    products: Products,
    explained: _Explained,
    pixel: float,
    table: ParticleTable,
    aberrations: Aberrations,
    log: JobLog,
) -> None:
    """Warn where molecule or CTF rings have another size in the images than the pixel sizes give (``pixel`` in A).

    ``products``: of the images and the map's projections.
    """
    as_given = explained.gain_of(products, explained.transfers)
    gains = {s: explained.gain(sample.spectra(lambda positions, s=s: positions * s)) for s in OBJECT_SCALES}  # type: ignore[misc]
    scale = max(gains, key=lambda s: float(gains[s].sum()))
    if (sure := margin(gains[scale], as_given)) > SURE:
        log.message(
            f"the molecule is about {100 * abs(scale - 1):.2g} % {'larger' if scale > 1 else 'smaller'} in the images "
            f"than in the map ({sure:.0f} standard errors): check the pixel sizes of both",
            "warning",
        )
    claimed = ctf_parameters(table, replace(aberrations, floor=0 * aberrations.floor), sample.box, pixel)
    parameters = torch.from_numpy(claimed[sample.rows]).to(as_given.device)
    rings = {}
    for s in CTF_SCALES:
        parameters[:, COLUMNS.index("pixel size")] = pixel * s
        rings[s] = explained.gain_of(products, contrast(parameters, sample.box))
    scale = max(rings, key=lambda s: float(rings[s].sum()))
    if (sure := margin(rings[scale], as_given)) > SURE:
        log.message(
            f"the CTF fits the images at {scale:.2f} times the pixel size given ({sure:.0f} standard errors): check "
            "the pixel size, or the defocus that was estimated with it",
            "warning",
        )
