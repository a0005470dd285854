"""What Analyze's summary.json says of trust, read through a schema."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.readers import read_json_object
from gaussianem_gui.project.small_files import Count, Number, Text


class HalfSet(BaseModel):
    """How a class differs from the mean in two halves of the data."""

    difference_correlation: Number


class Dependence(BaseModel):
    """Share of the latents' variance that something explains, and what chance would."""

    explained: Number
    chance: Number = 0.0
    level: Text = ""


class Outliers(BaseModel):
    """Images that fit badly."""

    flagged: Count
    share: Number


class TrustFigures(BaseModel):
    """Each absent where it was not found out."""

    half_sets: list[HalfSet] = Field(default_factory=list)
    dependence: dict[Text, Dependence] = Field(default_factory=dict)
    outliers: Outliers | None = None


def read_trust(path: Path) -> TrustFigures:
    """Figures of a summary.json. Raises InputError where it is no such file."""
    remedy = "Run Analyze again."
    content = read_json_object(path, "analysis", remedy)
    try:
        return TrustFigures.model_validate(content.get("trust") or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("trust", *first["loc"])))
        raise InputError(f"{path}, {where}", "must be as Analyze writes it", first["msg"], remedy) from None
