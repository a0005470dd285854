"""Scores against the truth: perfect knowledge scores 1, ignorance scores chance, and known errors are found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gaussianem_core.imaging.pose import random_rotations
from gaussianem_core.simulation.ground_truth import Truth
from gaussianem_core.simulation.latent_scores import (
    junk_figures,
    latent_figures,
    motion_values,
    neighbour_r2,
    roc_area,
)
from gaussianem_core.simulation.pose_scores import errors, pose_figures

N = 3000


def two_motions() -> Truth:
    generator = np.random.default_rng(0)
    motions = generator.uniform(-20, 20, (N, 2))
    present = generator.random(N) < 0.8
    motions[~present, 1] = np.nan
    junk = (generator.random(N) < 0.1).astype(np.int8)
    names = np.array(["head", "arm"])
    return Truth(state=motions, motions=motions, motion_names=names, present=present, junk=junk)


def test_each_motion_is_read_from_its_neighbours() -> None:
    truth, generator = two_motions(), np.random.default_rng(1)
    z = np.stack([truth.motions[:, 0], 3 * generator.normal(size=N)], axis=1)  # the head alone is in the latents
    figures = latent_figures(z, truth, generator, 0)
    assert figures["motion_r2"]["head"] > 0.95 and abs(figures["motion_r2"]["arm"]) < 0.05
    assert figures["occupancy_roc"] == pytest.approx(0.5, abs=0.05)
    assert "latent_error" not in figures  # of several motions there is no one state
    known = np.where(truth.present, truth.motions[:, 1], 60.0)
    figures = latent_figures(np.stack([truth.motions[:, 0], np.nan_to_num(known)], axis=1), truth, generator, 0)
    assert min(figures["motion_r2"].values()) > 0.95 and figures["occupancy_roc"] > 0.999


def test_junk_does_not_count_as_particles() -> None:
    truth, generator = two_motions(), np.random.default_rng(1)
    z = np.stack([truth.motions[:, 0], np.zeros(N)], axis=1)
    z[truth.junk > 0] = generator.permutation(z[truth.junk > 0])
    assert latent_figures(z, truth, generator, 0)["motion_r2"]["head"] > 0.98


def test_r2_of_noise_is_what_the_neighbours_allow() -> None:
    generator = np.random.default_rng(0)
    signal = generator.uniform(-1, 1, 4000)
    values = (signal + generator.normal(0, np.sqrt(1 / 3), 4000))[:, None]  # as much noise as signal
    assert neighbour_r2(signal[:, None], values) == pytest.approx(0.5, abs=0.03)
    # A mean over 60 others that says nothing adds a sixtieth of the variance.
    assert neighbour_r2(generator.normal(size=(4000, 3)), values) == pytest.approx(-1 / 60, abs=0.01)


def test_a_motion_in_a_circle_has_no_ends() -> None:
    state = np.random.default_rng(0).random(N)
    truth = Truth(state=state, periodic=True)
    z = np.stack([np.cos(2 * np.pi * state), np.sin(2 * np.pi * state)], axis=1)
    values = motion_values(truth)["motion"]
    assert values.shape == (N, 2) and neighbour_r2(z, values) > 0.99


def test_roc_area_is_the_share_of_ordered_pairs() -> None:
    assert roc_area(np.array([1.0, 2, 3, 4]), np.array([False, False, True, True])) == 1.0
    assert roc_area(np.array([1.0, 3, 2, 4]), np.array([False, False, True, True])) == 0.75


def test_junk_columns() -> None:
    truth = two_motions()
    fit = np.random.default_rng(0).normal(size=N) - 10 * (truth.junk > 0)
    latents = {"z_mu": np.zeros((N, 2)), "signal_fit": fit, "junk_probability": 1.0 * truth.junk, "junk_rows": fit[:5]}
    found = junk_figures(latents, truth)
    assert set(found) == {"signal_fit", "junk_probability"}
    assert found["junk_probability"] == 1.0 and found["signal_fit"] > 0.999
    assert junk_figures(latents, replace(truth, junk=None)) == {}


def posed(pose_error: float, shift_error: float) -> Truth:
    """Poses of a file with random errors, of a molecule that was turned by 40 degrees and moved; a tenth is junk."""
    generator = np.random.default_rng(3)
    rotations = random_rotations(N, generator)
    turns = Rotation.from_rotvec(generator.normal(0, pose_error / np.sqrt(3), (N, 3)), degrees=True).as_matrix()
    common = Rotation.from_rotvec([10, -30, 25], degrees=True).as_matrix()
    shifts = generator.normal(0, 2, (N, 2))
    given = turns @ rotations @ common
    junk = (np.arange(N) % 10 == 0).astype(np.int8)
    given[junk > 0] = random_rotations(int(junk.sum()), generator)
    moved = (given @ [1.0, -2.0, 0.5])[:, :2] + generator.normal(0, shift_error, (N, 2))
    ctf = np.zeros((N, 9))
    ctf[:, 2], ctf[:, 3] = 15000, 14000
    defocus = 14500 + generator.normal(0, 150, N)
    return Truth(
        rotations=rotations,
        shifts=shifts,
        given_rotations=given,
        given_shifts=shifts + moved,
        given_defocus_angstrom=defocus,
        junk=junk,
        ctf=ctf,
        state=np.zeros(N),
        apix=3.0,
    )


def test_errors_of_poses_are_told_apart_from_the_turn_of_all() -> None:
    found = pose_figures(posed(1.5, 0.35), None)["before"]
    assert found["rotation_deg"] == pytest.approx(1.5, rel=0.05)
    assert found["in_plane_deg"] == pytest.approx(1.5 / np.sqrt(3), rel=0.05)
    assert found["out_of_plane_deg"] == pytest.approx(1.5 / np.sqrt(3), rel=0.05)
    assert found["shift_px"] == pytest.approx(0.35, rel=0.05)
    assert found["defocus_angstrom"] == pytest.approx(150, rel=0.05)
    assert found["common_rotation_deg"] == pytest.approx(np.linalg.norm([10, -30, 25]), abs=0.1)
    assert found["common_displacement_px"] == pytest.approx(np.linalg.norm([1, -2, 0.5]), abs=0.02)


def test_a_minority_that_turns_with_a_moving_part_does_not_set_the_frame() -> None:
    truth = posed(0.1, 0.01)
    turned = truth.given_rotations.copy()
    some = np.arange(N) % 4 == 1
    turned[some] = turned[some] @ Rotation.from_rotvec([0, 0, 8], degrees=True).as_matrix()
    figures = errors(truth, turned, truth.given_shifts, None)
    assert figures["rotation_median_deg"] < 0.2  # the frame is that of the other three quarters
