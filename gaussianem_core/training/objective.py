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

from gaussianem_core.imaging.likelihood import image_likelihood
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


class Seen(NamedTuple):
    """What a step knows of B images before it renders.

    observed : what is compared: spectra of the images (B, D, D//2+1), times the root of their weight, or in the
        published objective the images (B, D, D).
    views : how they are seen.
    factors : (B,), of the projections: contrast times the root of the weight, where nuisances are sampled, else None.
    counted : (), mean weight of the images that the residual is measured from.
    shell_weight : (D//2+1,), inverse noise power of each shell.
    """

    observed: torch.Tensor
    views: Views
    factors: torch.Tensor | None
    counted: torch.Tensor
    shell_weight: torch.Tensor


class Changes(NamedTuple):
    """What the priors are about: the M Gaussians ``deformed`` to the latents of B images, their ``embedding`` (M, E),
    the ``pairs`` of neighbours among them, and of these the ones that count in this step: ``drawn`` (p,), indices, or
    None for all."""

    deformed: Deformed
    embedding: torch.Tensor
    pairs: regularisers.NeighbourPairs
    drawn: torch.Tensor | None


def observe(
    images: torch.Tensor, root: torch.Tensor | None, likelihood: str
) -> torch.Tensor:  # (B, D, D), (B,) -> Seen.observed
    """What is compared of the images, whose squared errors count by the square of ``root``."""
    if likelihood == "l1":
        return images
    return spectrum(images if root is None else images * root[:, None, None])


def data_terms(
    seen: Seen, projections: torch.Tensor, kl: torch.Tensor | None, beta: torch.Tensor, recipe: Recipe
) -> tuple[Terms, torch.Tensor]:  # and (C, D//2+1)
    """Likelihood of the images and KL term of the default objective, and the residual's power by shell (C, D//2+1),
    which is the sum over C.

    ``projections``: (B, D, D), before the CTF. ``kl``: (B, zdim) of free or encoded latents in nats, else None, and its
    weight ``beta`` ().
    """
    pixels, scale_prior = projections.shape[-1] ** 2, recipe.scale_prior if seen.factors is None else 0.0
    given = (projections, seen.observed, seen.views.ctf, seen.shell_weight, scale_prior, seen.factors)
    found = image_likelihood(*given)
    terms: Terms = {"data": (1 / (len(projections) * pixels), found.data)}
    if kl is not None:
        terms["kl"] = (beta, kl.sum(1).mean() / pixels)
    return terms, found.residual


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
        term = regularisers.anchor_term(deformed.centre, anchor)
        terms["anchor"] = (recipe.anchor, term / nats)
    return terms


def published_terms(seen: Seen, projections: torch.Tensor, kl: torch.Tensor | None, beta: torch.Tensor) -> Terms:
    """Difference of images and projections, and KL term, of the published objective (He et al., arXiv 2512.21599,
    Methods); arguments as for :func:`data_terms`."""
    box = projections.shape[-1]
    filtered = torch.fft.irfft2(spectrum(projections) * seen.views.transfer(box), s=(box, box), norm="ortho")
    terms: Terms = {"data": (1.0, (filtered - seen.observed).abs().mean())}
    if kl is not None:
        terms["kl"] = (beta, kl.mean())
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


def weights(terms: Terms, device: torch.device) -> list[torch.Tensor]:
    """The terms' weights, () each, as tensors."""
    given = (weight for weight, _ in terms.values())
    return [weight if isinstance(weight, torch.Tensor) else constants((weight,), device)[0] for weight in given]


def gradients(terms: Terms, parameters: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Gradients of the loss, the weighted sum of the terms. The sum itself is not waited for."""
    learnt = {name: term for name, term in terms.items() if term[1].requires_grad}
    if not parameters:
        return []
    of = [value for _, value in learnt.values()]
    slopes = [weight.expand_as(value) for weight, value in zip(weights(learnt, device), of)]
    return list(torch.autograd.grad(of, parameters, slopes))


@torch.no_grad()
def values(terms: Terms, device: torch.device) -> torch.Tensor:  # (len(TERMS),)
    """The values in the order of TERMS, the loss first: the others without their weights, but those of single images as
    their weighted sum."""
    one, zero = constants((1.0,), device)[0], constants((0.0,), device)[0]
    each = {name: weight * value.sum() if value.ndim else value for name, (weight, value) in terms.items()}
    left = [one if value.ndim else weight for weight, (_, value) in zip(weights(terms, device), terms.values())]
    total = (torch.stack(list(each.values())) * torch.stack(left)).sum()
    return torch.stack([total, *(each.get(name, zero) for name in TERMS[1:])])


@functools.cache
def constants(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """``values`` as a tensor (n,) that is made once: a step that is captured cannot ask the host for it."""
    return torch.tensor(values, dtype=torch.float32, device=device)
