"""ChimeraX over REST, against a server that answers as ChimeraX's documentation says. ChimeraX itself is not run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from answering_chimerax import answering

from gaussianem_core.errors import InputError
from gaussianem_core.io.mrc import read_map
from gaussianem_gui.explorer.chimerax_live import ChimeraX


@pytest.fixture
def listening() -> Iterator[tuple[ChimeraX, list[str]]]:
    with answering() as (port, heard):
        yield ChimeraX(port), heard


def test_maps_and_scripts_are_opened(listening: tuple[ChimeraX, list[str]], tmp_path: Path) -> None:
    chimerax, heard = listening
    place = tmp_path / "a path & more"
    chimerax.open_file(place / "map.mrc")
    chimerax.open_file(place / "play.cxc")
    assert heard == [f'open "{place}/map.mrc"', f'open "{place}/play.cxc"']


def test_the_clicked_point_replaces_the_one_before(listening: tuple[ChimeraX, list[str]], tmp_path: Path) -> None:
    chimerax, heard = listening
    volume = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    chimerax.follow(volume, 2.5, (1.0, 2.0, 3.0), 0.7, tmp_path)  # nothing to close yet: that is no error
    assert [words.split()[0] for words in heard] == ["close", "open", "volume"]
    assert heard[1].endswith("id 900") and "#900" in heard[2] and "level 0.7" in heard[2]
    written = read_map(tmp_path / "clicked_point.mrc")
    assert np.array_equal(written.values, volume) and written.pixel_size_angstrom == pytest.approx(2.5)


def test_a_refusal_and_silence_are_told(listening: tuple[ChimeraX, list[str]], tmp_path: Path) -> None:
    chimerax, _ = listening
    with pytest.raises(InputError, match="Unknown command"):
        chimerax.run("nonsense")
    with pytest.raises(InputError, match="semicolon"):
        chimerax.open_file(tmp_path / "a;exit.mrc")
    with pytest.raises(InputError, match="remotecontrol rest start port 1 "):
        ChimeraX(1).run("version")
