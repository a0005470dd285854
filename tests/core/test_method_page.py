"""The page of the method speaks of this program: its functions exist, its numbers are those of the code."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from gaussianem_core.training import (
    junk,
    linear_fit,
    linear_model,
    mixture_prior,
    nuisances,
    regularisers,
    smooth_fields,
    trainer,
)
from gaussianem_core.training.recipe import MOST_EPOCHS, RECIPES

PAGE = Path(__file__).parents[2] / "resources" / "guide" / "method.md"
TEXT = " ".join(PAGE.read_text().split())
ROOMS = ("analysis", "commands", "imaging", "io", "model", "reconstruction", "simulation", "training")
NAMES = sorted(set(re.findall(rf"`((?:{'|'.join(ROOMS)})\.[\w.]+)`", TEXT)))


@pytest.mark.parametrize("name", NAMES)
def test_what_the_page_names_exists(name: str) -> None:
    parts = ["gaussianem_core", *name.split(".")]
    for length in range(len(parts), 1, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        assert found.__doc__, f"{name} says nothing of itself"
        return
    raise AssertionError(f"no module of {name}")


def test_the_pages_numbers_are_the_codes() -> None:
    """Each number of the page beside the constant that it repeats."""
    r, p = RECIPES["default"], RECIPES["published"]
    assert len(NAMES) > 40
    for words in (
        f"prior about 1 of width {r.scale_prior:g}",
        f"at most {smooth_fields.MOST_POINTS} control points (one for {smooth_fields.GAUSSIANS_PER_POINT} Gaussians)",
        f"{linear_fit.EPOCHS[0]} to {linear_fit.EPOCHS[1]} passes",
        f"of more than {linear_fit.MOST:,} as",
        f"odds of {linear_fit.ODDS:,.0f} to 1",
        f"their mean is {linear_fit.ERRORS:g} standard errors above 0",
        f"at least {linear_model.LEAST_HELD} up to a quarter",
        f"{100 * nuisances.DEFOCUS_TOLD[0]:g} to {100 * nuisances.DEFOCUS_TOLD[1]:g} % of its prior variance",
        f"{nuisances.LEAST[0] / nuisances.DEGREE:g} to {nuisances.MOST[0] / nuisances.DEGREE:g} degrees an axis",
        f"normal about 1 with width {junk.MISSING_WIDTH:g}",
        f"s one of {junk.ERROR_SCALES[0]:g}, {junk.ERROR_SCALES[1]:g} and {junk.ERROR_SCALES[2]:g}",
        f"C = {junk.MISSING_WIDTH:g}² for missing pieces",
        f"over up to {junk.ERROR_PARTICLES:,} particles",
        f"{r.w_rigidity:g} · M / (N D²)",
        f"{r.w_composition:g} · M / (N D²)",
        f"{r.anchor:g} / (N D²)",
        f"/ {regularisers.COMPOSITION_WIDTH:g}²",
        f"{r.pairs:,} of them count in a step",
        f"widths are {regularisers.ANCHOR_DENSITY:g} of the mean density, {regularisers.ANCHOR_SCALE:g} in raw width",
        f"to {mixture_prior.MOST} at the most",
        f"at most {MOST_EPOCHS} passes",
        f"until {r.least_steps} steps are done",
    ):
        assert words in TEXT, words
    assert (linear_model.HELD_OUT, linear_model.MOST_HELD, linear_model.SAMPLES) == (0.1, 0.25, 2)
    assert (nuisances.GIVEN_RIGHT, junk.PIECES, junk.LEVELS) == (20, 12, 4)
    assert (smooth_fields.PIXELS, smooth_fields.RAW_DENSITY, linear_model.WIDTH) == (1.0, 0.5, 1.0)
    assert (mixture_prior.SIGNIFICANT, mixture_prior.SAMPLES, trainer.WARMUP_SHARE) == (2.0, 4, 0.05)
    assert (r.lr, r.lr_density, r.lr_position, r.final_rate) == (5e-4, 5e-3, 2e-4, 0.02)
    assert (r.epochs, r.refinements, r.refine, p.epochs, p.beta) == (6, 1, 3, 20, 2e-5)
