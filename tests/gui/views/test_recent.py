"""What is kept in memory is bounded by bytes, and what was used last stays."""

from pathlib import Path

import numpy as np
from PySide6.QtCore import QObject

from gaussianem_gui.explorer.volumes import Look, Picture
from gaussianem_gui.views.explorer.live_viewer import LiveViewer
from gaussianem_gui.views.plots.recent import Recent
from gaussianem_gui.views.plots.surface_maker import MOST_BYTES, SurfaceMaker
from gaussianem_gui.views.plots.surfaces import prepare


def ball(path: Path) -> Picture:
    """A volume whose surface at any level is a sphere."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 32)] * 3, indexing="ij"))
    values = (1 - np.linalg.norm(grid, axis=0)).astype(np.float32)
    return Picture(path, values, 2.0, 32, float(values.mean()), float(values.std()), 3.0)


def test_what_was_not_used_for_longest_goes_first():
    kept: Recent[str, bytes] = Recent(10, len)
    for key in "abc":
        kept.keep(key, bytes(3))
    assert kept.get("a") == bytes(3)
    kept.keep("d", bytes(4))
    assert [key in kept for key in "abcd"] == [True, False, True, True] and kept.bytes == 10
    kept.keep("d", bytes(1))  # one of another size in its place
    assert kept.bytes == 7
    kept.keep("e", bytes(50))  # larger than all room: it is what is looked at
    assert len(kept) == 1 and "e" in kept and kept.get("a") is None
    kept.clear()
    assert not len(kept) and kept.bytes == 0


def test_surfaces_take_no_more_memory_than_they_may(tmp_path, qtbot):
    """As for somebody who plays through levels for an hour: the memory asked of the system is bounded."""
    picture, owner = ball(tmp_path / "ball.mrc"), QObject()
    maker = SurfaceMaker(owner)
    one = prepare(picture, Look(0.5))
    # a corner of each face has a vertex and a normal of three floats: 72 bytes a face, 28 that are drawn besides
    assert one.bytes() > 72 * len(one.mesh[1])
    count = MOST_BYTES // one.bytes() + 20
    for number in range(count):
        maker.keep(picture, Look(0.5 + number * 1e-6), one)
    assert maker.kept.bytes <= MOST_BYTES and len(maker.kept) == MOST_BYTES // one.bytes()


def test_the_explorer_keeps_the_surface_that_it_shows_alone(tmp_path, qtbot):
    """Each decoded picture has a name of its own and never comes back: for each click a surface more was kept."""
    viewer = LiveViewer()
    qtbot.addWidget(viewer)
    qtbot.waitUntil(viewer.starter.start, timeout=30_000)  # without a screen: there will never be a canvas
    viewer.set_contour(0.5)  # all pictures of a model have one level
    for number in range(5):
        picture = ball(tmp_path / f"decoded-{number}.mrc")
        viewer.show_picture(picture, "particle", prepare(picture, viewer.look()))
        assert len(viewer.surfaces.kept) == 1 and (picture.path, viewer.look()) in viewer.surfaces.kept
