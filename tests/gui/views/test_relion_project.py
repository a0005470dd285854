"""A project that RELION made: its refinement is where the work begins."""

from __future__ import annotations

from pathlib import Path

import relion_project
from conftest import LONG
from small_data import simulate


def test_preprocess_begins_with_the_newest_refinement(window, qtbot, tmp_path: Path, monkeypatch) -> None:
    root = relion_project.write(tmp_path / "relion", simulate(tmp_path / "sim", particles=120))
    monkeypatch.chdir(root)
    from pipeliner.project_graph import ProjectGraph  # the outside authority on such projects

    graph = ProjectGraph(name="default", pipeline_dir=".", read_only=True)
    assert [process.name for process in graph.process_list] == [directory for _, directory, _, _ in relion_project.JOBS]
    assert window.open_project(root)
    qtbot.waitUntil(lambda: window.model.loaded, timeout=LONG)
    window.pages.show_home()
    window.pages.home.next_button.click()
    form = window.pane.parameters.form
    qtbot.waitUntil(lambda: "Refine3D" in str(form.values()["star_file"]), timeout=LONG)
    assert form.values()["star_file"] == "Refine3D/job003/run_data.star"
    assert form.values()["consensus_map"] == "Refine3D/job003/run_class001.mrc", "the whole map, not a half"
    panel = window.pane.parameters.panel
    qtbot.waitUntil(lambda: any("120 particles" in check.text for check in panel.checks), timeout=LONG)
    assert not any(check.level == "error" for check in panel.checks)
