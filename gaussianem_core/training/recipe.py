"""Weights of the loss, rates and schedule of a training: the recipes, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gaussianem_core.options import LATENTS_OF_RECIPE, TrainOptions
from gaussianem_core.training import nuisances


@dataclass(frozen=True)
class Recipe:
    """Losses, rates and schedule. ``w_*`` are weights of the terms in ``regularisers``; ``lr*`` are Adam's rates."""

    likelihood: str  # "squared" (Gaussian noise, nats per pixel) or "l1"
    latents: str  # "linear" (free, from the linear model), "free", "encoder" or "both" (encoder first, then free)
    lr: float
    lr_latent: float
    lr_density: float  # raw density and raw scale of the consensus Gaussians; 0 keeps them
    lr_position: float
    beta: float  # KL weight; 1 is the evidence lower bound when the likelihood is "squared", and lets latents collapse
    w_embedding: float = 0.0
    w_distance: float = 0.0
    w_direction: float = 0.0
    w_spacing: float = 0.0
    w_latent: float = 0.0
    w_rigidity: float = 0.0
    w_composition: float = 0.0
    anchor: float = 0.0  # weight of the prior that holds the mean Gaussians to the consensus map; 1 is its likelihood
    scale_prior: float = 0.0  # width of the prior of each image's scale around 1; 0 keeps the scale at 1
    band_start: float = 0.6  # resolution (cycles/pixel) at which training starts ...
    band_full: float = 0.0  # ... and the share of training after which all frequencies count
    beta_start: float = 1.0  # KL weight at the start, as a share of beta, ...
    beta_full: float = 0.0  # ... and the share of training after which it has its full weight
    final_rate: float = 1.0  # the rates' last value, as a share of the first (cosine)
    head_scale: float = 1.0  # initial output layers times this: start from the consensus
    encoder_share: float = 1.0  # "both": share of the epochs with latents from the encoder
    held: tuple[str, ...] = nuisances.KINDS  # what is taken as given; the rest is estimated with "linear" latents, ...
    weigh_junk: bool = False  # ... and then images that hold no particle may count less
    refine: int = 0  # rounds of Gauss-Newton steps each time that all latents are refined: at the end, ...
    refinements: int = 1  # ... after equal parts of the epochs with free latents, and after the encoder's epochs
    candidates: int = 0  # latents of other particles that each particle tries first
    pairs: int = 0  # neighbour pairs drawn a step; 0 takes all
    epochs: int = 20  # passes over the particles where the options name none, ...
    least_steps: int = 1600  # ... more of them, up to MOST_EPOCHS, where they are fewer steps than this

    @property
    def corrects(self) -> bool:
        """Whether anything about the images is estimated beside their latents."""
        return self.weigh_junk or set(self.held) != set(nuisances.KINDS)


RECIPES = {
    "default": Recipe(
        likelihood="squared",
        latents=LATENTS_OF_RECIPE["default"],
        lr=5e-4,
        lr_latent=1e-2,
        lr_density=5e-3,
        lr_position=2e-4,
        beta=1.0,
        w_rigidity=10.0,
        w_composition=1.0,
        anchor=4.0,
        scale_prior=0.2,
        held=(),
        weigh_junk=True,
        final_rate=0.02,
        head_scale=0.1,
        encoder_share=0.5,
        refine=3,
        refinements=1,
        pairs=8192,
        epochs=6,
        least_steps=400,
    ),
    "published": Recipe(
        likelihood="l1",
        latents=LATENTS_OF_RECIPE["published"],
        lr=1e-4,
        lr_latent=5e-2,
        lr_density=0.0,
        lr_position=0.0,
        beta=1 / 5e4,
        w_embedding=1e-5,
        w_distance=1e-2,
        w_direction=1e-5,
        w_spacing=1e-3,
        w_latent=1e-6,
    ),
}
# Latents that do not start from the linear model must first become ordered: at the full KL weight they would collapse.
# The other values are those with which the benchmarks were measured (guide: Benchmarks).
WITHOUT_LINEAR_MODEL: dict[str, Any] = {
    "beta": 0.3,
    "beta_start": 0.1,
    "beta_full": 0.3,
    "candidates": 24,
    "refine": 2,
    "anchor": 0.0,
    "epochs": 20,
    "least_steps": 1600,
    "held": nuisances.KINDS,
    "weigh_junk": False,
}


# Where the linear model finds no component only the Gaussians are left to learn, which no longer change after these
# steps: poses, contrasts and junk are known from the linear model (guide: Benchmarks).
WITHOUT_COMPONENTS: dict[str, Any] = {"epochs": 4, "least_steps": 140, "refine": 2, "refinements": 0}


HELD_BY = {
    "out of plane": "hold_rotations",
    "in plane": "hold_rotations",
    "shift": "hold_shifts",
    "contrast": "hold_contrast",
    "defocus": "hold_defocus",
}
"""The option that takes each of ``nuisances.KINDS`` as given."""


def choose_recipe(options: TrainOptions) -> Recipe:
    """The recipe that ``options`` name, changed by the options that are given explicitly."""
    recipe = RECIPES[options.recipe]
    if recipe.latents == "linear" and options.latents not in ("auto", "linear"):
        recipe = replace(recipe, **WITHOUT_LINEAR_MODEL)
    if recipe.latents == "linear" and not recipe.held:
        held = tuple(kind for kind, option in HELD_BY.items() if getattr(options, option))
        recipe = replace(recipe, held=held, weigh_junk=not options.keep_junk)
    names = ("lr", "lr_latent", "beta", "w_embedding", "w_distance", "w_direction", "w_spacing", "w_latent", "pairs")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.latents != "auto":
        given["latents"] = options.latents
    return replace(recipe, **given)


def without_components(recipe: Recipe) -> Recipe:
    """The recipe with a short schedule, for data without a real component, in which every latent stays at 0."""
    return replace(recipe, **WITHOUT_COMPONENTS)


MOST_EPOCHS = 60


def automatic_epochs(recipe: Recipe, steps_per_epoch: int) -> int:
    """Number of epochs: the recipe's, or more for ``least_steps`` steps, up to MOST_EPOCHS.

    A training on few images that goes on much longer fits their noise.
    """
    return max(recipe.epochs, min(MOST_EPOCHS, -(-recipe.least_steps // steps_per_epoch)))
