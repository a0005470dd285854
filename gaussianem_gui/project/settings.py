"""Settings in layers: what the program ships, what the user keeps for all projects, what one project says. No Qt here.

A job's own options stand above all of them. Each layer is a small JSON file and holds only what was changed there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gaussianem_core.options import JOB_OPTIONS
from gaussianem_core.runtime.files import write_atomically

PROJECT_FILE = ".gaussianem/settings.json"
SHIPPED: dict[str, Any] = {
    "theme": "dark",
    "where": "local",  # where new jobs run: local or cluster
    "gpus": 0,  # GPUs of a job whose options name none; 0: one, or as the program decides
    "notify": True,
    "disk_warning_gb": 10.0,
    "poll_seconds": 1.0,
    "defaults": {},  # job type -> option -> value
}
PROGRAM_ONLY = ("theme", "notify", "poll_seconds")
CHOICES = {"theme": ("dark", "light", "system"), "where": ("local", "cluster")}


def program_file() -> Path:
    """Where the user's settings for all projects are kept."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "gaussianem" / "settings.json"


def read(path: Path) -> dict[str, Any]:
    """One layer; {} if the file is absent or damaged."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in values.items() if k in SHIPPED} if isinstance(values, dict) else {}


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Keep one layer. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(dict(values), indent=1) + "\n")


class Settings:
    """The layers together. ``get`` takes the project's value, else the user's, else the shipped one."""

    def __init__(self, root: Path | None = None, program: Path | None = None) -> None:
        self.root = root
        self._program_path = program or program_file()
        self.program = read(self._program_path)
        self.project = read(root / PROJECT_FILE) if root is not None else {}

    def get(self, name: str) -> Any:
        """The value in force."""
        if name in self.project and name not in PROGRAM_ONLY:
            return self.project[name]
        return self.program.get(name, SHIPPED[name])

    def layer(self, name: str) -> str:
        """Where the value in force comes from: project, program or shipped."""
        if name in self.project and name not in PROGRAM_ONLY:
            return "project"
        return "program" if name in self.program else "shipped"

    def set(self, name: str, value: Any, layer: str = "program") -> None:
        """Change one value (None removes it from the layer) and keep it. Raises OSError."""
        values = self.project if layer == "project" else self.program
        if value is None:
            values.pop(name, None)
        else:
            values[name] = value
        if layer == "project":
            assert self.root is not None
            write(self.root / PROJECT_FILE, values)
        else:
            write(self._program_path, values)

    def defaults(self, job_type: str) -> dict[str, Any]:
        """Preset options of a new job of ``job_type``: the user's, then the project's over them."""
        merged: dict[str, Any] = {}
        for layer in (self.program, self.project):
            of_type = (layer.get("defaults") or {}).get(job_type)
            if isinstance(of_type, dict):
                merged.update(of_type)
        known = JOB_OPTIONS[job_type].model_fields
        return {name: value for name, value in merged.items() if name in known}

    def set_defaults(self, job_type: str, values: Mapping[str, Any], layer: str) -> None:
        """Keep ``values`` as the presets of ``job_type`` in one layer; {} removes them."""
        all_types = dict((self.project if layer == "project" else self.program).get("defaults") or {})
        all_types[job_type] = dict(values)
        self.set("defaults", {k: v for k, v in all_types.items() if v} or None, layer)
