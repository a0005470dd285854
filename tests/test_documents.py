"""README, contributors' pages and guide: commands are understood, links lead somewhere, no room is missing."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from gaussianem_core import __version__
from gaussianem_core.cli import COMMANDS, parse
from gaussianem_core.options import JOB_OPTIONS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "resources" / "guide").glob("*.md")]


def test_commands_in_the_readme_are_understood() -> None:
    blocks = re.findall(r"^```\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    checked = 0
    for line in lines:
        words = shlex.split(line, comments=True)
        if "gaussianem_core" in words:  # torchrun ... -m gaussianem_core
            words = ["gaussianem", *words[words.index("gaussianem_core") + 1 :]]
        if words[:1] != ["gaussianem"]:
            continue
        assert words[1] in JOB_OPTIONS or words[1] in COMMANDS, line
        if words[1] in JOB_OPTIONS:
            parse(JOB_OPTIONS[words[1]], words[2:])
            checked += 1
        elif words[1:3] in (["job", "run"], ["job", "submit"]):
            given = [word.removeprefix("--") for word in words[4:] if word.startswith("--")]
            known = {*JOB_OPTIONS[words[3]].model_fields, "from", "wait", "gpu_count"}
            assert set(given) <= known, line
    assert checked >= 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_readme_can_be_read_in_one_sitting() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) < 250
    first = "\n".join(lines[:24])
    for words in ("shows how a protein moves", "make demo", "make test", "has left the published one"):
        assert words in first, words


def test_makefile_has_the_commands_that_the_pages_name() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"`make ([a-z-]+)`", page.read_text()))
        named |= set(re.findall(r"^make ([a-z-]+)", page.read_text(), flags=re.MULTILINE))
        assert named <= targets, page.name


def test_architecture_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = [path.parent for package in ("core", "gui") for path in ROOT.glob(f"gaussianem_{package}/**/__init__.py")]
    for room in rooms:
        assert f"`{room.name}" in text, f"{room.name} is not on the page of the architecture"


def test_every_page_speaks_of_this_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_package_is_installed() -> None:
    listed = set(re.findall(r"^    (gaussianem_[\w.]+)$", (ROOT / "setup.cfg").read_text(), flags=re.MULTILINE))
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in ("core", "gui")
        for path in ROOT.glob(f"gaussianem_{package}/**/__init__.py")
    }
    assert listed - {"gaussianem_resources"} == found
