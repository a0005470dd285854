"""What a run reads is never what it writes: the output that would replace an input is refused before it is touched."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_data import simulate

from gaussianem_core.cli import main
from gaussianem_core.errors import InputError
from gaussianem_core.io.mrc import write_map
from gaussianem_core.io.particle_table import write_cs_subset, write_star_subset
from gaussianem_core.runtime.files import atomic_write, write_atomically
from gaussianem_core.runtime.sources import refuse_source, sources_kept


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources") / "sim"
    simulate(folder, particles=8, box=16)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".star", ".mrcs", ".mrc")}


@pytest.mark.parametrize("way", ["plain", "by a link to the folder", "by a link to the file", "by .."])
def test_results_do_not_replace_the_particles_they_come_from(simulated: Path, tmp_path: Path, way: str) -> None:
    before, star, out = contents(simulated), simulated / "particles.star", simulated
    if way == "by a link to the folder":
        out = tmp_path / "link"
        out.symlink_to(simulated)
    elif way == "by a link to the file":
        star = tmp_path / "other.star"
        star.symlink_to(simulated / "particles.star")
    elif way == "by ..":
        out = simulated / ".." / simulated.name
    words = [
        "--star_file",
        str(star),
        "--consensus_map",
        str(simulated / "consensus.mrc"),
        "--data_dir",
        str(simulated),
    ]
    words += ["--job_dir", str(out), "--overwrite", "--device", "cpu"]
    assert main(["preprocess", *words]) == 2
    assert contents(simulated) == before


def test_a_stack_that_the_particles_file_names_is_not_replaced(simulated: Path, tmp_path: Path) -> None:
    """No option names it: the user's own stack lies where preprocess would write its own."""
    for name in ("particles.star", "consensus.mrc"):
        (tmp_path / name).write_bytes((simulated / name).read_bytes())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "img_stack.mrcs").write_bytes((simulated / "particles.mrcs").read_bytes())
    star = (tmp_path / "particles.star").read_text()
    assert "@particles.mrcs" in star
    (tmp_path / "particles.star").write_text(star.replace("@particles.mrcs", "@out/img_stack.mrcs"))
    before = contents(tmp_path / "out")
    words = ["--star_file", "particles.star", "--consensus_map", "consensus.mrc", "--job_dir", str(tmp_path / "out")]
    assert main(["preprocess", "-s", str(tmp_path), *words, "--overwrite", "--device", "cpu"]) == 2
    assert contents(tmp_path / "out") == before


def test_writers_refuse_what_is_read(tmp_path: Path) -> None:
    source, link = tmp_path / "source", tmp_path / "link"
    source.write_text("mine")
    link.symlink_to(source)
    hidden = tmp_path / "folder"
    hidden.symlink_to(tmp_path)
    writers: list[Callable[[Path], object]] = [
        lambda path: write_atomically(path, "new"),
        lambda path: write_map(path, np.zeros((4, 4, 4), np.float32), 1.0),
        lambda path: atomic_write(path).__enter__(),
    ]
    for write in writers:
        for kept, target in ((source, source), (link, source), (link, link), (source, hidden / "source")):
            with sources_kept([kept]), pytest.raises(InputError, match="must not be a file that is read"):
                write(target)
    with sources_kept([source]):
        write_atomically(link, "new")  # replaces the link, not what it leads to
    assert source.read_text() == "mine" and not link.is_symlink()
    write_atomically(source, "new")  # the run is over
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "source"]


def test_a_selection_does_not_replace_its_source(simulated: Path, tmp_path: Path) -> None:
    star, table = tmp_path / "p.star", tmp_path / "p.cs"
    star.write_bytes((simulated / "particles.star").read_bytes())
    np.save(tmp_path / "p.npy", np.array([(1,), (2,)], dtype=[("uid", "<u8")]))
    (tmp_path / "p.npy").rename(table)
    for path, write in ((star, write_star_subset), (table, write_cs_subset)):
        before = path.read_bytes()
        with pytest.raises(InputError, match="must not be a file that is read"):
            write(path, [0], tmp_path / "." / path.name)
        assert path.read_bytes() == before


def test_names_alone_do_not_make_a_source(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    refuse_source(tmp_path / "a" / "particles.star", [tmp_path / "particles.star", "particles.star"])
