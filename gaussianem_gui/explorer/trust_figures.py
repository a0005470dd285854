"""The diagnostics in Analyze's summary.json (its entry ``trust``), read through a schema."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.readers import read_json_object
from gaussianem_gui.project.small_files import Count, Number, Text


class HalfSet(BaseModel):
    """Correlation between two half sets of how a class differs from the mean."""

    difference_correlation: Number


class Dependence(BaseModel):
    """Share of the latents' variance that a quantity explains, and the share expected by chance."""

    explained: Number
    chance: Number = 0.0
    level: Text = ""


class Outliers(BaseModel):
    """Number and share of the images that fit badly."""

    flagged: Count
    share: Number


class TrustFigures(BaseModel):
    """The diagnostics; those that were not computed are empty or None."""

    half_sets: list[HalfSet] = Field(default_factory=list)
    dependence: dict[Text, Dependence] = Field(default_factory=dict)
    outliers: Outliers | None = None


def read_trust(path: Path) -> TrustFigures:
    """The diagnostics of a summary.json. Raises InputError if it cannot be read or does not fit the schema."""
    remedy = "Run Analyze again."
    content = read_json_object(path, "analysis", remedy)
    try:
        return TrustFigures.model_validate(content.get("trust") or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("trust", *first["loc"])))
        raise InputError(f"{path}, {where}", "must be as Analyze writes it", first["msg"], remedy) from None
