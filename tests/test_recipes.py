"""Recipes of container, Apptainer, conda and pixi say what setup.cfg says, and pass the linters that are here."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from gaussianem_core import __version__

PACKAGING = Path(__file__).parents[1] / "packaging"
# What conda-forge calls two of PyPI's packages.
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    parsed = configparser.ConfigParser()
    parsed.read(PACKAGING.parent / "setup.cfg")
    return parsed


def test_the_conda_recipe_asks_for_what_the_wheel_asks_for(setup: configparser.ConfigParser) -> None:
    recipe = yaml.safe_load((PACKAGING / "recipe.yaml").read_text())
    wanted = {"python " + setup["options"]["python_requires"]}
    for line in setup["options"]["install_requires"].split():
        name, rule = re.fullmatch(r"([\w-]+)(.*)", line).groups()  # type: ignore[union-attr]
        wanted.add(f"{CONDA_NAMES.get(name, name)} {rule}".strip())
    assert set(recipe["requirements"]["run"]) == wanted
    assert recipe["context"]["version"] == __version__
    points = setup["options.entry_points"]
    scripts = points["console_scripts"].strip().splitlines() + points["gui_scripts"].strip().splitlines()
    assert recipe["build"]["python"]["entry_points"] == scripts


def test_rattler_build_renders_the_conda_recipe() -> None:
    rattler = pytest.importorskip("rattler_build")
    (variant,) = rattler.Stage0Recipe.from_file(str(PACKAGING / "recipe.yaml")).render()
    assert "gaussianem" in str(variant) and __version__ in str(variant)


def test_the_pixi_workspace_installs_this_project(setup: configparser.ConfigParser) -> None:
    pixi = tomllib.loads((PACKAGING / "pixi.toml").read_text())
    own = pixi["pypi-dependencies"]["gaussianem"]
    assert own["path"] == "." and set(own["extras"]) <= set(setup["options.extras_require"])
    assert pixi["dependencies"]["python"] == setup["options"]["python_requires"]


@pytest.mark.skipif(not shutil.which("hadolint"), reason="no hadolint here")
def test_hadolint_finds_nothing_in_the_container_recipe() -> None:
    done = subprocess.run(["hadolint", PACKAGING / "Containerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_apptainer_recipe_has_its_sections_and_starts_from_the_same_image() -> None:
    """Header of ``Key: value`` lines, then sections, as Apptainer's manual has it."""
    header, *sections = re.split(r"^%", (PACKAGING / "gaussianem.def").read_text(), flags=re.M)
    keys = dict(line.split(": ", 1) for line in header.splitlines() if line and not line.startswith("#"))
    assert keys["Bootstrap"] == "docker"
    assert f"/{keys['From']}\n" in (PACKAGING / "Containerfile").read_text()
    bodies = dict(section.split("\n", 1) for section in sections)
    assert set(bodies) == {"files", "post", "runscript", "test"}
    for name in ("post", "runscript", "test"):
        subprocess.run(["sh", "-n"], input=bodies[name], text=True, check=True)
