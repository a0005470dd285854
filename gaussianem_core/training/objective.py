"""The loss of a training: one function of tensors for each recipe.

Both give named terms, each a weight and a value; the loss is their weighted sum. Data and KL terms are means over
images (in the default recipe divided by the number of pixels), so that their size does not depend on batch and box.

Default: the negative log-likelihood of the images under Gaussian noise (``likelihood``) and the priors: neighbouring
Gaussians move alike and come and go together, and the structure at the centre of the latent space stays near the
consensus map's (``regularisers``). Published (He et al., arXiv 2512.21599, Methods): mean absolute difference of image
and projection, and the neighbour terms of the paper.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from gaussianem_core.imaging.likelihood import RESIDUAL_IMAGES, image_likelihood
from gaussianem_core.model.deformation import Deformed
from gaussianem_core.training import regularisers
from gaussianem_core.training.forward_model import Views, spectrum
from gaussianem_core.training.recipe import Recipe

TERMS = (
    "loss",
    "data",
    "kl",
    "embedding",
    "distance",
    "direction",
    "spacing",
    "rigidity",
    "composition",
    "anchor",
    "latent",
)
"""Names of the terms, in the order of the metrics; ``loss`` is their weighted sum."""

Terms = dict[str, tuple[torch.Tensor | float, torch.Tensor]]


class Batch(NamedTuple):
    """B images and the model's projections of them.

    observed : what is compared: spectra of the images (B, D, D//2+1), times the root of the weight, or in the published
        objective the images (B, D, D).
    projections : (B, D, D), before the CTF, in ``views``.
    kl : (B, zdim) of free or encoded latents in nats, else None. beta : (), its weight.
    contrast, weight : (B,), factor of each image's signal and weight of its squared error, where nuisances are sampled.
    """

    observed: torch.Tensor
    projections: torch.Tensor
    views: Views
    kl: torch.Tensor | None
    beta: torch.Tensor
    contrast: torch.Tensor | None = None
    weight: torch.Tensor | None = None


class Changes(NamedTuple):
    """What the priors are about: the M Gaussians ``deformed`` to the latents of B images, their ``embedding`` (M, E),
    the ``pairs`` of neighbours among them, and of these the ones that count in this step: ``drawn`` (p,), indices, or
    None for all."""

    deformed: Deformed
    embedding: torch.Tensor
    pairs: regularisers.NeighbourPairs
    drawn: torch.Tensor | None


def observe(
    images: torch.Tensor, weight: torch.Tensor | None, recipe: Recipe
) -> torch.Tensor:  # (B, D, D), (B,) -> Batch.observed
    """What is compared of the images, see :class:`Batch`."""
    if recipe.likelihood == "l1":
        return images
    return spectrum(images if weight is None else images * weight.sqrt()[:, None, None])


def data_terms(
    batch: Batch, recipe: Recipe, shell_weight: torch.Tensor
) -> tuple[Terms, torch.Tensor, torch.Tensor]:  # and (D//2+1,), ()
    """Likelihood of the images and KL term of the default objective, the residual's power by shell (D//2+1,), and the
    number to divide it by.

    ``shell_weight`` (D//2+1,): inverse noise power of each shell.
    """
    pixels = batch.projections.shape[-1] ** 2
    scale_prior, factors = recipe.scale_prior, batch.contrast
    counted = constants((1.0,), batch.observed.device)[0]
    if batch.contrast is not None and batch.weight is not None:
        # Squared errors count by the weight; so does the residual, which the noise is measured from.
        factors, scale_prior = batch.weight.sqrt() * batch.contrast, 0.0
        counted = batch.weight[:RESIDUAL_IMAGES].mean()
    found = image_likelihood(batch.projections, batch.observed, batch.views.ctf, shell_weight, scale_prior, factors)
    terms: Terms = {"data": (1.0, found.data.mean() / pixels)}
    if batch.kl is not None:
        terms["kl"] = (batch.beta, batch.kl.sum(1).mean() / pixels)
    return terms, found.residual, counted


def prior_terms(changes: Changes, recipe: Recipe, anchor: regularisers.Anchor, nats: int) -> Terms:
    """Terms of the priors of the default objective.

    ``anchor``: prior of the Gaussians at the centre of the latent space, where they are among the changes. ``nats``:
    what a prior in nats is divided by, the number of particles, among which it is shared, times that of pixels.
    """
    terms = neighbour_terms(changes, recipe)
    deformed = changes.deformed
    each = len(changes.embedding) / nats
    if recipe.w_rigidity or recipe.w_composition:
        rigidity, composition = regularisers.rigidity_and_composition(
            deformed.displacement, deformed.density_change, changes.pairs, changes.drawn
        )
        terms["rigidity"] = (recipe.w_rigidity, each * rigidity)
        terms["composition"] = (recipe.w_composition, each * composition)
    if deformed.centre is not None:
        term = regularisers.anchor_term(deformed.centre.features, anchor)
        terms["anchor"] = (recipe.anchor, term / nats)
    return terms


def published_terms(batch: Batch) -> Terms:
    """Difference of images and projections, and KL term, of the published objective (He et al., arXiv 2512.21599,
    Methods)."""
    box = batch.projections.shape[-1]
    filtered = torch.fft.irfft2(spectrum(batch.projections) * batch.views.transfer(box), s=(box, box), norm="ortho")
    terms: Terms = {"data": (1.0, (filtered - batch.observed).abs().mean())}
    if batch.kl is not None:
        terms["kl"] = (batch.beta, batch.kl.mean())
    return terms


def neighbour_terms(changes: Changes, recipe: Recipe) -> Terms:
    """The published terms of neighbouring Gaussians (He et al., arXiv 2512.21599, Methods) that have a weight."""
    terms: Terms = {}
    if not (recipe.w_embedding or recipe.w_distance or recipe.w_direction or recipe.w_spacing):
        return terms
    pairs = changes.pairs.subset(changes.drawn)
    if recipe.w_embedding:
        terms["embedding"] = (recipe.w_embedding, regularisers.embedding_term(changes.embedding, pairs))
    if recipe.w_distance:
        terms["distance"] = (recipe.w_distance, regularisers.distance_term(changes.deformed.positions, pairs))
    if recipe.w_direction:
        terms["direction"] = (recipe.w_direction, regularisers.direction_term(changes.deformed.displacement, pairs))
    if recipe.w_spacing:
        terms["spacing"] = (recipe.w_spacing, regularisers.spacing_term(changes.deformed.positions, pairs))
    return terms


def weighted_sum(terms: Terms, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss (), and the unweighted values (len(TERMS),) in the order of TERMS, loss first, without gradients."""
    fixed = {name: (weight, value) for name, (weight, value) in terms.items() if not isinstance(weight, torch.Tensor)}
    weights = constants(tuple(weight for weight, _ in fixed.values()), device)
    total = (torch.stack([value for _, value in fixed.values()]) * weights).sum()
    for weight, value in terms.values():
        if isinstance(weight, torch.Tensor):
            total = total + weight * value
    zero = constants((0.0,), device)[0]
    values = [total, *(terms.get(name, (0.0, zero))[1] for name in TERMS[1:])]
    return total, torch.stack([value.detach() for value in values])


@functools.cache
def constants(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """``values`` as a tensor (n,) that is made once: a step that is captured cannot ask the host for it."""
    return torch.tensor(values, dtype=torch.float32, device=device)
