"""``cfg.json``: box, bounds of the Gaussians' widths, sizes of the network; and the unit of Gaussian coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from gaussianem_core.errors import InputError
from gaussianem_core.options import NetworkOptions
from gaussianem_core.ranges import RANGES
from gaussianem_core.runtime.files import write_json
from gaussianem_core.runtime.readers import read_json_object

WORLD = 2.0
"""Length of the box in world units (``sVoxel``)."""

LENGTH_TOLERANCE = 2e-3
"""Largest relative difference of two lengths that count as one: headers round pixel sizes."""

NETWORK_KEYS = (
    "gaussian_embedding_dim",
    "qlayers",
    "qdim",
    "zdim",
    "gaussian_kdim",
    "gaussian_klayers",
    "feature_dim",
    "feature_kdim",
    "feature_klayers",
)


@dataclass(frozen=True)
class Configuration:
    """Content of ``cfg.json``.

    box, pixel_size_angstrom : of the written stack, in pixels and Angstrom.
    scale_min, scale_max : bounds of the Gaussians' sigma in world units (in the file: fractions of the box).
    std : standard deviation of the stack's pixels.
    invert_contrast : the stack's protein is white, and its images are multiplied by -1 when read.
    window : the encoder sees windowed images.
    network : the sizes NETWORK_KEYS.
    extra : all entries of the file, to be written back.
    """

    box: int
    pixel_size_angstrom: float
    scale_min: float
    scale_max: float
    std: float
    invert_contrast: bool
    window: bool
    network: dict[str, int]
    extra: dict[str, Any]


_REMEDY = "Use the cfg.json that preprocess wrote."


def load_configuration(path: Path | str) -> Configuration:
    """Read ``cfg.json`` of this or the published program.

    Raises InputError if the file cannot be read, naming the entry that is missing, wrong or out of range.
    """
    content = read_json_object(path, "cfg", _REMEDY).get("cfg")
    if not isinstance(content, dict):
        raise InputError("cfg", 'must be a JSON file with an entry "cfg"', path, _REMEDY)
    entries = _Entries(path, content)
    box = entries.get("nDetector")
    if not isinstance(box, list) or not box or any(side != box[0] for side in box):
        entries.refuse("nDetector", "must be a box, [D, D]", box)
    narrow, wide = entries.number("scale_min", "width"), entries.number("scale_max", "width")
    if narrow >= wide:
        entries.refuse("scale_max", f"must exceed scale_min, {narrow:g}", wide)
    origin = content.get("origin_angstrom", [0.0, 0.0, 0.0])
    if not isinstance(origin, list) or len(origin) != 3:
        entries.refuse("origin_angstrom", "must be x, y, z", origin)
    for side in origin:
        entries.check("origin_angstrom", side, "origin")
    entries.check("nDetector", box[0], "box")
    return Configuration(
        box=entries.whole("nDetector", box[0]),
        pixel_size_angstrom=entries.number("pixelSize", "pixel size"),
        scale_min=narrow * WORLD,
        scale_max=wide * WORLD,
        std=entries.number("std", "std"),
        invert_contrast=entries.flag("invert_contrast"),
        window=entries.flag("window"),
        network=entries.network(),
        extra=content,
    )


@dataclass(frozen=True)
class _Entries:
    """What stands in ``cfg``; every method raises InputError that names the file and the entry."""

    path: Path | str
    cfg: dict[str, Any]

    def refuse(self, name: str, rule: str, value: object) -> NoReturn:
        raise InputError(f"{self.path}, entry {name}", rule, value, _REMEDY)

    def get(self, name: str) -> Any:
        if name not in self.cfg:
            raise InputError("cfg", f"must hold every entry of the configuration, {name} too", self.path, _REMEDY)
        return self.cfg[name]

    def check(self, name: str, value: Any, allowed: str) -> float:
        """``value`` as a number within RANGES[allowed]."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(name, "must be a number", value)
        if not RANGES[allowed].low <= value <= RANGES[allowed].high:
            self.refuse(name, RANGES[allowed].rule, value)
        return float(value)

    def number(self, name: str, allowed: str) -> float:
        return self.check(name, self.get(name), allowed)

    def whole(self, name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:
            self.refuse(name, "must be a whole number", value)
        return int(value)

    def flag(self, name: str) -> bool:
        value = self.cfg.get(name, True)
        if not isinstance(value, bool):
            self.refuse(name, "must be true or false", value)
        return value

    def network(self) -> dict[str, int]:
        """Sizes of the network, within the bounds of the options that set them."""
        try:
            sizes = NetworkOptions(**{name: self.get(name) for name in NETWORK_KEYS})
        except ValidationError as error:
            first = error.errors()[0]
            self.refuse(str(first["loc"][0]), first["msg"], first["input"])
        return {name: getattr(sizes, name) for name in NETWORK_KEYS}


def write_configuration(configuration: Configuration, path: Path | str) -> None:
    """Write ``cfg.json`` in the published layout, atomically."""
    c, box = configuration, configuration.box
    length = box * c.pixel_size_angstrom
    cfg: dict[str, Any] = {
        "mode": "parallel",
        "filter": None,
        "DSD": 7.0,
        "DSO": 5.0,
        "nDetector": [box, box],
        "sDetector": [length, length],
        "nVoxel": [box, box, box],
        "sVoxel": [WORLD] * 3,
        "offOrigin": [0, 0, 0],
        "offDetector": [0, 0, 0],
        "accuracy": 0.5,
        "ctf": True,
        **c.extra,
        "invert_contrast": c.invert_contrast,
        "window": c.window,
        "pixelSize": c.pixel_size_angstrom,
        "scale_min": c.scale_min / WORLD,
        "scale_max": c.scale_max / WORLD,
        "std": c.std,
        **c.network,
    }
    write_json(path, {"bbox": [[-1, -1, -1], [1, 1, 1]], "cfg": cfg})
