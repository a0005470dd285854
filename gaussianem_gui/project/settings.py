"""Settings in layers: the program's, the user's for all projects, and those of one project. No Qt here.

A job's own options take precedence over all of them. Each layer is a small JSON file with what was changed there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

from gaussianem_core.options import JOB_OPTIONS
from gaussianem_core.runtime.files import write_atomically
from gaussianem_gui.project import small_files
from gaussianem_gui.project.containment import inside, made_folder
from gaussianem_gui.project.job_star import wrong_type
from gaussianem_gui.project.user_folders import config_folder

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
Theme = Literal["dark", "light", "system"]
Where = Literal["local", "cluster"]
CHOICES: dict[str, tuple[str, ...]] = {"theme": get_args(Theme), "where": get_args(Where)}


class Layer(TypedDict, total=False):
    """Schema of one layer."""

    __pydantic_config__ = ConfigDict(extra="ignore")  # type: ignore[misc]
    theme: Theme
    where: Where
    gpus: Annotated[int, Field(ge=0, le=1024)]
    notify: bool
    disk_warning_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    poll_seconds: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
    defaults: dict[str, dict[str, Any]]


_LAYER: TypeAdapter[Any] = TypeAdapter(Layer)


def program_file() -> Path:
    """File of the user's settings for all projects."""
    return config_folder() / "settings.json"


def read(path: Path) -> dict[str, Any]:
    """One layer, without damaged values; {} if the file is absent."""
    return small_files.read(path, _LAYER)[0]


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write one layer, atomically. Raises OSError."""
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
        """Change one value (None removes it from the layer) and write the layer.

        Raises OSError, and InputError where the project's folder is a link that leads out of it.
        """
        values = self.project if layer == "project" else self.program
        if value is None:
            values.pop(name, None)
        else:
            values[name] = value
        if layer == "project":
            assert self.root is not None
            made_folder(self.root, (self.root / PROJECT_FILE).parent)
            write(inside(self.root, self.root / PROJECT_FILE), values)
        else:
            self._program_path.parent.mkdir(parents=True, exist_ok=True)
            write(self._program_path, values)

    def defaults(self, job_type: str) -> dict[str, Any]:
        """Preset options of a new job of ``job_type``: the user's, then the project's over them."""
        merged: dict[str, Any] = {}
        for layer in (self.program, self.project):
            of_type = (layer.get("defaults") or {}).get(job_type)
            if isinstance(of_type, dict):
                merged.update(of_type)
        model = JOB_OPTIONS[job_type]
        known = {name: value for name, value in merged.items() if name in model.model_fields}
        return {name: value for name, value in known.items() if not wrong_type(model, name, value)}

    def set_defaults(self, job_type: str, values: Mapping[str, Any], layer: str) -> None:
        """Write ``values`` as the presets of ``job_type`` in one layer; {} removes them. Raises as :meth:`set`."""
        all_types = dict((self.project if layer == "project" else self.program).get("defaults") or {})
        all_types[job_type] = dict(values)
        self.set("defaults", {k: v for k, v in all_types.items() if v} or None, layer)
