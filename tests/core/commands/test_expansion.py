"""Symmetry expansion: a row for each mate, one image for all of them, and what counts particles counts images."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from small_data import preprocess, simulate

from gaussianem_core.analysis import diagnostics
from gaussianem_core.analysis.report import one_row_an_image
from gaussianem_core.imaging.pose import load_poses, rotations_from_angles
from gaussianem_core.imaging.symmetry import symmetry_mates, symmetry_operators
from gaussianem_core.io.image_rows import load_images
from gaussianem_core.io.particle_table import read_particles
from gaussianem_core.job.events import EVENTS, JobLog, read_events
from gaussianem_core.training.corrections import Corrections, report
from gaussianem_core.training.grouping import Grouping
from gaussianem_core.training.junk import Junk

COUNT = 24


@pytest.fixture(scope="module")
def expanded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("symmetry")
    simulate(folder, particles=COUNT, box=16)
    assert preprocess(folder, folder / "plain") == 0
    assert preprocess(folder, folder / "pre", "--symmetry", "D2") == 0
    return folder


def test_each_image_has_a_row_for_each_mate(expanded: Path) -> None:
    pre = expanded / "pre"
    image = load_images(pre, 4 * COUNT)
    assert image is not None and np.array_equal(image, np.repeat(np.arange(COUNT), 4))
    assert len(mrcfile.read(pre / "img_stack.mrcs")) == COUNT  # written once
    source = read_particles(expanded / "particles.star")
    rotations, shifts = load_poses(pre / "poses.npy")
    mates = symmetry_mates(rotations_from_angles(source.angles_deg), symmetry_operators("D2"))
    np.testing.assert_allclose(rotations.reshape(COUNT, 4, 3, 3), mates, atol=1e-6)
    np.testing.assert_array_equal(np.load(pre / "ctf.npy")[::4], np.load(expanded / "plain" / "ctf.npy"))
    np.testing.assert_array_equal(shifts.reshape(COUNT, 4, 2), np.repeat(shifts[::4, None], 4, axis=1))
    written = read_particles(pre / "particles.star", find_stacks=False)
    assert len(written) == 4 * COUNT and written.images_of_expansion() is not None
    np.testing.assert_allclose(rotations_from_angles(written.angles_deg), rotations, atol=1e-5)
    assert load_images(expanded / "plain") is None


def test_files_that_are_expanded_already_are_noticed(expanded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = expanded / "again.star"
    star.write_bytes((expanded / "pre" / "particles.star").read_bytes())
    assert preprocess(expanded, expanded / "again", "--star_file", "again.star") == 0
    assert (
        f"{4 * COUNT} rows show {COUNT} images in several poses: they are symmetry-expanded" in capsys.readouterr().out
    )
    for name in ("img_stack.mrcs", "images.npy", "poses.npy", "ctf.npy"):
        first, again = (expanded / folder / name for folder in ("pre", "again"))
        if name.endswith(".npy"):
            np.testing.assert_allclose(np.load(first), np.load(again), atol=1e-5)
        else:
            assert first.read_bytes() == again.read_bytes()
    assert preprocess(expanded, expanded / "twice", "--star_file", "again.star", "--symmetry", "D2") == 2
    assert "must be left out for particles that are expanded already" in capsys.readouterr().err
    assert preprocess(expanded, expanded / "none", "--symmetry", "X9") == 2


def test_mates_are_no_independent_particles() -> None:
    """Latents that all mates of an image share follow nothing, and are not said to because there are four of each."""
    generator = np.random.default_rng(0)
    image = np.repeat(np.arange(100), 4)
    rows = one_row_an_image(image, 3)
    assert np.array_equal(image[rows], np.arange(100)) and len(np.unique(rows % 4)) == 4
    alarms = {"rows": 0, "images": 0}
    for seed in range(30):
        z, defocus = generator.normal(size=(100, 2))[image], generator.normal(size=(100, 3))[image]
        for name, chosen in (("rows", np.arange(400)), ("images", one_row_an_image(image, seed))):
            alarms[name] += diagnostics.dependence(z[chosen], defocus[chosen], "defocus", seed).p_value < 0.01
    assert alarms["images"] <= 3 < alarms["rows"], alarms


def test_junk_is_counted_in_images(tmp_path: Path) -> None:
    probability = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 0.9])
    junk = Junk(probability, -probability, torch.tensor(0.5))
    found = Corrections(torch.zeros(8, 7), torch.zeros(1, 8, 7), torch.zeros(7), junk)
    with JobLog(tmp_path, ["train"]) as log:
        single = Grouping.of(np.arange(8))
        report(found, single, np.repeat(np.arange(2), 4), True, log)
        report(found, single, np.arange(8), True, log)
    said = [event["text"] for event in read_events(tmp_path / EVENTS)[0] if event["type"] == "message"]
    assert "images that hold no such particle: 1 of 2: 2" in said
    assert "images that hold no such particle: 4 of 8: 5, 6, 7, 8" in said
