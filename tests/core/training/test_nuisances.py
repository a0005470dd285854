"""Errors of pose, contrast and defocus: their derivatives, and the widths of their priors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from gaussianem_core.imaging.pose import random_rotations
from gaussianem_core.imaging.projection import project_reference
from gaussianem_core.job.events import EVENTS, JobLog, read_events
from gaussianem_core.training import nuisances
from gaussianem_core.training.corrections import Corrections, report
from gaussianem_core.training.forward_model import Views, spectrum
from gaussianem_core.training.grouping import Grouping
from gaussianem_core.training.junk import Junk

BOX, COUNT = 32, 6


def particles() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Views]:
    """30 Gaussians well inside the box, and six views of them; float64."""
    generator = np.random.default_rng(0)
    positions = torch.from_numpy(generator.normal(0, 0.18, (30, 3)))
    densities, sigmas = torch.from_numpy(generator.uniform(1, 3, 30)), torch.full((30,), 1.3 * 2 / BOX).double()
    ctf = np.tile([BOX, 4.0, 15000, 14500, 30, 300, 2.7, 0.1, 10], (COUNT, 1)) + 0.0
    ctf[:, 2:4] += generator.uniform(-3000, 3000, (COUNT, 1))
    arrays = (random_rotations(COUNT, generator), generator.normal(0, 1.5, (COUNT, 2)), ctf)
    return positions, densities, sigmas, Views(*(torch.from_numpy(a) for a in arrays))


def image(q: torch.Tensor) -> torch.Tensor:  # (6, 7) -> (6, D, D//2+1)
    """Spectra of the particles with nuisances ``q``."""
    positions, densities, sigmas, given = particles()
    views = nuisances.corrected(given, q)
    projected = project_reference(positions, densities, sigmas, views.rotations, views.shifts, BOX)
    return spectrum(projected) * views.transfer(BOX).double() * (1 + q[:, nuisances.CONTRAST])[:, None, None]


@pytest.mark.parametrize("number", range(nuisances.COUNT))
def test_derivatives_are_finite_differences(number: int) -> None:
    positions, densities, sigmas, given = particles()
    q = torch.tensor([0.1, -0.2, 0.15, 0.7, -0.4, 0.3, 200.0]).double().expand(COUNT, -1).clone()
    step = torch.zeros(nuisances.COUNT).double()
    step[number] = 20.0 if number == nuisances.DEFOCUS else 1e-3
    # A turn is followed by a turn: exp[w + dw] is not exp[dw] exp[w], so the pose is moved and w starts anew.
    views = nuisances.corrected(given, q)
    moved = [nuisances.corrected(views, (sign * step).expand(COUNT, -1)) for sign in (1, -1)]
    contrast = [1 + q[:, nuisances.CONTRAST] + sign * step[nuisances.CONTRAST] for sign in (1, -1)]
    ends = []
    for view, a in zip(moved, contrast):
        projected = project_reference(positions, densities, sigmas, view.rotations, view.shifts, BOX)
        ends.append(spectrum(projected) * view.transfer(BOX).double() * a[:, None, None])
    wanted = (ends[0] - ends[1]) / (2 * step[number])
    projected = project_reference(positions, densities, sigmas, views.rotations, views.shifts, BOX)
    deep = densities * nuisances.depths(positions.expand(COUNT, -1, -1), views.rotations, BOX)
    turned = project_reference(
        positions.expand(COUNT, -1, -1), deep, sigmas.expand(COUNT, -1), views.rotations, views.shifts, BOX
    )
    found = nuisances.derivatives(
        spectrum(projected), spectrum(turned), views, 1 + q[:, nuisances.CONTRAST], views.transfer(BOX)
    )
    # The CTF is made in float32: a change of 20 A in defocus keeps three digits.
    assert float((found[:, number] - wanted).norm() / wanted.norm()) < 2e-3


def test_corrections_are_turns_shifts_and_defocus() -> None:
    *_, given = particles()
    q = torch.tensor([0.3, -0.1, 0.2, 1.5, -2.0, 0.4, 300.0]).double().expand(COUNT, -1)
    views = nuisances.corrected(given, q)
    turn = torch.from_numpy(Rotation.from_rotvec(q[0, :3].numpy()).as_matrix())
    torch.testing.assert_close(views.rotations, turn @ given.rotations)
    torch.testing.assert_close(views.shifts, given.shifts + torch.tensor([1.5, -2.0]).double())
    torch.testing.assert_close(views.ctf[:, 2:4], given.ctf[:, 2:4] + 300)
    assert torch.equal(nuisances.corrected(given, q * 0).ctf, given.ctf)


def measurements(truth: torch.Tensor, widths: torch.Tensor, precision: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What images say about q / ``widths`` that measure ``truth`` (N, 7) with this precision in each number."""
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    information = torch.diag_embed((precision * widths.square()).expand(truth.shape))
    return widths * (precision * truth + precision**0.5 * noise), information


def test_widths_are_those_of_the_errors_and_fall_to_nothing_without() -> None:
    first = nuisances.first_widths((), torch.device("cpu"))
    true = torch.tensor([0.03, 0.03, 0.01, 0.5, 0.5, 0.1, 0.0])  # a number of rotation per axis, of shift per axis, ...
    draws = torch.randn(5000, 7, generator=torch.Generator().manual_seed(0)) * true
    linear, information = measurements(draws, first, 2000.0)
    found = nuisances.fit_widths(linear, information, first, torch.ones(5000))
    torch.testing.assert_close(found[:6], true[:6], rtol=0.1, atol=0.0)
    assert float(found[6]) == pytest.approx(nuisances.LEAST[4])
    linear, information = measurements(draws * 0, first, 2000.0)
    found = nuisances.fit_widths(linear, information, first, torch.ones(5000))
    none = nuisances.fit_widths(linear[:0], information[:0], first, torch.ones(0))
    assert torch.equal(none, first)
    # What chance leaves is a small part of the 0.022 that each image is uncertain by.
    assert (found[:6] < 0.006).all()


def test_widths_that_are_held_stay_nothing_and_junk_does_not_widen_the_others() -> None:
    held = nuisances.first_widths(("shift", "defocus"), torch.device("cpu"))
    assert (held[[3, 4, 6]] == 0).all() and (held[[0, 1, 2, 5]] > 0).all()
    draws = torch.randn(2000, 7, generator=torch.Generator().manual_seed(0)) * 0.02
    draws[:200] *= 20
    share = torch.ones(2000)
    share[:200] = 0
    linear, information = measurements(draws, held, 5000.0)
    found = nuisances.fit_widths(linear, information, held, share)
    assert (found[[3, 4, 6]] == 0).all()
    torch.testing.assert_close(found[:3], torch.full((3,), 0.02), rtol=0.15, atol=0.0)


def test_errors_larger_than_a_refinement_leaves_are_not_believed_and_said(tmp_path: Path) -> None:
    first = nuisances.first_widths((), torch.device("cpu"))
    draws = torch.randn(500, 7, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.3] * 3 + [0.0] * 4)
    linear, information = measurements(draws, first, 2000.0)
    found = nuisances.fit_widths(linear, information, first, torch.ones(500))
    torch.testing.assert_close(found[:3], torch.full((3,), nuisances.MOST[0]))
    junk = Junk(torch.zeros(500), torch.zeros(500), torch.tensor(0.0))
    for widths, times in ((found, 1), (found * 0.9, 0)):
        with JobLog(tmp_path / str(times), ["train"]) as log:
            numbers = np.arange(500)
            report(Corrections(draws, draws[None], widths, junk), Grouping.of(numbers), numbers, False, log)
        events, _ = read_events(tmp_path / str(times) / EVENTS)
        said = [e["text"] for e in events if e["type"] == "message" and "(out of plane, in plane)" in e["text"]]
        assert len(said) == times and all("--hold_rotations" in text for text in said)
