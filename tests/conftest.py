"""Fixtures that every room's tests use."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gaussianem_core.cli import WAITING

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
for name, value in WAITING.items():  # before torch and numba load; several tests share the machine
    os.environ.setdefault(name, value)
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


# As it was before any test: a fixture of a module or session that runs a job in this process changes it, too, and comes
# before those of a test.
ENVIRONMENT = {name: os.environ.get(name) for name in ("PYTHONSAFEPATH", "NUMBA_CACHE_DIR", "PYTHONPATH")}


def restore_environment() -> None:
    for name, value in ENVIRONMENT.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """A job that runs in a test's process makes its children distrust the working directory, and its ``--threads`` hold
    for the process, whose sums then round otherwise than those of a process of its own: undone for each test."""
    restore_environment()
    torch = sys.modules.get("torch")  # tests of the window alone start without it
    threads = torch.get_num_threads() if torch else 0
    yield
    restore_environment()
    if torch and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real reference data beside the checkout; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"reference data folder {SHARED_DATA} is absent")
    return SHARED_DATA


@pytest.fixture(scope="session")
def data() -> Path:
    """Small files that ship with the tests."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An arm that swings through 9 places: 600 images of 32 px, prepared for four latent dimensions."""
    from small_data import preprocess, simulate  # here: tests of the window start without torch

    folder = tmp_path_factory.mktemp("moving")
    simulate(folder / "sim", particles=600, snr=0.3, frames=9)
    assert preprocess(folder / "sim", folder / "pre", "--zdim", "4") == 0
    return folder


@pytest.fixture(scope="session")
def finished_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of ``gaussianem demo`` as the real engine made it; what it printed lies beside it, demo.out.

    It is made once: processes that share the tests take a copy each.
    """
    folder = tmp_path_factory.mktemp("finished")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        make_demo(folder)
        return folder / "demo"
    made = tmp_path_factory.getbasetemp().parent / "finished"
    made.mkdir(exist_ok=True)
    with (made / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / "demo.out").exists():
            make_demo(made)
    shutil.copytree(made, folder, symlinks=True, dirs_exist_ok=True)
    return folder / "demo"


def make_demo(folder: Path) -> None:
    places = ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "GAUSSIANEM_STATE_DIR")
    own = {name: str(folder) for name in places}
    done = subprocess.run(
        [sys.executable, "-m", "gaussianem_core", "demo", "demo"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **own},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "demo.out").write_text(done.stdout)
