"""The built wheel holds all of the program: installed into an empty environment, away from the checkout, it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from small_data import write_molecule

from gaussianem_core import __version__

ROOT = Path(__file__).parents[1]
SOURCES = ("gaussianem_core", "gaussianem_gui", "resources")


def run(*command: str | Path, folder: Path) -> str:
    """What a command prints; nothing of this checkout is on its path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources with the tools that are here."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "--wheel-dir", folder, source, folder=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_it_holds_every_file(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for name in SOURCES:
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                place = Path(name.replace("resources", "gaussianem_resources"), path.relative_to(ROOT / name))
                assert str(place) in inside
    assert not any(name.startswith(("tests", "resources")) for name in inside)


@pytest.mark.slow
def test_it_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env", folder=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--no-cache-dir", "--disable-pip-version-check", "install")
    run(*pip, "--no-deps", "--no-index", "--no-compile", wheel, folder=tmp_path)
    # The libraries of this environment serve, behind the environment's own packages; its editable install does not.
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    libraries = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")
    program = tmp_path / "env" / "bin" / "gaussianem"

    assert run(program, "--version", folder=tmp_path).strip() == __version__
    write_molecule(tmp_path / "molecule.npz")
    simulate = ("simulate", "--model", "molecule.npz", "--particles", "4", "--box", "16", "--apix", "8")
    run(program, *simulate, "--device", "cpu", "--job_dir", "simulated", folder=tmp_path)
    assert (tmp_path / "simulated" / "particles.star").is_file()
    # The application finds its guide, its pictures and its queue templates.
    script = (
        "import gaussianem_core as core, gaussianem_gui, gaussianem_resources as r; print(core.__file__, r.__file__)\n"
        "from gaussianem_gui.views.window.guide import guide_pages; print([title for title, _ in guide_pages()])\n"
        "from gaussianem_gui.execution.cluster import PRESETS; print(sorted(PRESETS))\n"
    )
    told = run(python, "-c", script, folder=tmp_path)
    assert told.splitlines()[0].count(str(site)) == 2
    assert "First steps" in told and "The method" in told and "slurm" in told
    (tmp_path / "state").mkdir()
    run(program, "project", "new", "mine", folder=tmp_path)
    assert (tmp_path / "mine" / "default_pipeline.star").is_file()
