"""The explorer on latents of another program: all that needs no network, and a clear word for what does."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from PySide6.QtWidgets import QLabel

sys.path.insert(0, str(Path(__file__).parents[1] / "project"))

from test_import_latents import imported

from gaussianem_gui.project.project import Project


def test_latents_of_two_programs_in_the_explorer(window, data: Path, tmp_path: Path, monkeypatch, qtbot) -> None:
    root = tmp_path / "project"
    shutil.copytree(data / "other_programs", root)
    monkeypatch.chdir(root)
    project = Project.create(root)
    drgn = imported(project, "z.2.pkl", indices="ind.pkl")
    np.save(root / "some.npy", np.load(root / "latent_coords.npy")[5:55])
    other = imported(project, "some.npy", indices="ind.pkl")
    assert window.open_project(root)
    qtbot.waitUntil(lambda: window.model.loaded, timeout=60_000)
    window.pages.open_explorer(drgn.job)
    qtbot.waitUntil(lambda: window.pages.explorer is not None, timeout=60_000)
    explorer = window.pages.explorer
    session = explorer.session
    qtbot.waitUntil(lambda: session.table is not None and session.density is not None, timeout=60_000)
    assert "cryoDRGN" in explorer.title.text()
    shown = {name for place, name in enumerate(explorer.panels) if explorer.tabs.isTabVisible(place)}
    assert shown == set(explorer.panels) - {"Domains", "Mask"}
    assert any("No network here" in text.text() for text in explorer.scene.viewer.empty.findChildren(QLabel))
    session.pick_particle(3)
    assert "nothing here decodes" in explorer.scene.status.full_text()
    assert explorer.reconstruct.isEnabled()

    compare = explorer.panels["Compare"]
    explorer.show_panel(compare)
    qtbot.waitUntil(lambda: compare.job.count() > 0, timeout=60_000)
    assert compare.job.currentData() == other.job
    compare.start()
    qtbot.waitUntil(lambda: compare.found is not None, timeout=60_000)
    assert compare.found.scores.shape == (50, 2)
