"""``cfg.json``: box, bounds of the Gaussians' widths, layers of the network; and the unit of Gaussian coordinates."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.files import write_atomically

WORLD = 2.0


LENGTH_TOLERANCE = 2e-3


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
    """What ``cfg.json`` says. ``box`` in pixels, ``pixel_size_angstrom`` of the written stack, ``std`` of its pixels.

    ``scale_min``, ``scale_max`` are world units (file: fractions of the box). ``invert_contrast``: the stack's
    protein is white and its images are multiplied by -1 when read. ``window``: the encoder sees windowed images.
    ``network`` holds the sizes in NETWORK_KEYS. ``extra`` keeps the file's other entries.
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


def load_configuration(path: Path | str) -> Configuration:
    """Read ``cfg.json``, published or ours. Raises InputError naming the entry that is missing or wrong."""
    try:
        content = json.loads(Path(path).read_text())
        cfg = dict(content["cfg"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "cfg", 'must be a JSON file with an entry "cfg"', path, "Use the cfg.json that preprocess wrote."
        ) from error
    try:
        return Configuration(
            box=int(cfg["nDetector"][0]),
            pixel_size_angstrom=float(cfg["pixelSize"]),
            scale_min=float(cfg["scale_min"]) * WORLD,
            scale_max=float(cfg["scale_max"]) * WORLD,
            std=float(cfg["std"]),
            invert_contrast=bool(cfg.get("invert_contrast", True)),
            window=bool(cfg.get("window", True)),
            network={key: int(cfg[key]) for key in NETWORK_KEYS},
            extra=cfg,
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            "cfg",
            "must hold every entry of the configuration",
            f"{path}: {error!r}",
            "Use the cfg.json that preprocess wrote.",
        ) from error


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
    write_atomically(path, json.dumps({"bbox": [[-1, -1, -1], [1, 1, 1]], "cfg": cfg}) + "\n")
