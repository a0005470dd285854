"""ChimeraX command files that show what a job wrote. They name maps by their names in the same folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gaussianem_core.runtime.files import write_atomically

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
"""Colours that people with colour-blindness tell apart (Tol, SRON technical note, 2021)."""


def write_trajectory_script(path: Path, maps: Sequence[str], level: float, title: str) -> None:
    """Write a script that opens ``maps`` as a series, all contoured at ``level``, and plays it to and fro."""
    write_atomically(
        path,
        "\n".join(
            [
                f"# {title}: open this file in ChimeraX (File > Open, or drag it in).",
                f"open {' '.join(maps)} vseries true",
                f"volume #1 style surface step 1 level {level:.6g} color {COLOURS[0]}",
                "lighting soft",
                "set bgColor white",
                "view",
                "vseries play #1 direction oscillate loop true maxFrameRate 8",
                "",
            ]
        ),
    )


def write_volumes_script(path: Path, maps: Sequence[str], level: float, title: str) -> None:
    """Write a script that opens ``maps`` side by side, each in its own colour, all contoured at ``level``."""
    lines = [f"# {title}: open this file in ChimeraX.", f"open {' '.join(maps)}"]
    for i in range(len(maps)):
        lines.append(f"volume #{i + 1} style surface step 1 level {level:.6g} color {COLOURS[i % len(COLOURS)]}")
    lines += ["lighting soft", "set bgColor white", "tile" if len(maps) > 1 else "view", ""]
    write_atomically(path, "\n".join(lines))
