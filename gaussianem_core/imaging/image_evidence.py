"""What the images themselves say of how they were made: which transfer from projections they fit, and how surely.

With F a projection's spectrum and c the CTF (sin chi), an image is Y = a T(c) F + noise of variance s q(c), where

    as recorded       T = c      q = 1            multiplied by c       T = c^2   q = c^2 (1 - l) + l
    phase-flipped     T = |c|    q = 1            corrected             T = 1     q = 1

The amplitude a >= 0 (times one sign for all) and the noise power s are free in each shell, so that neither the map's
fall-off nor the noise's colour matters; l is the share of noise that cropping the images after the multiplication
mixed in. Two such explanations are compared by the log-likelihoods of single images: the mean of their difference over
its standard error is a standard normal number where neither is better (Vuong, Econometrica 57, 307 (1989)).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from gaussianem_core.imaging.aberrations import State
from gaussianem_core.imaging.fourier import half_plane_weight, shell_sizes, shells

SURE = 5.0
"""Standard errors by which one explanation must beat another."""

LEAST_IMAGES = 20
LEAKS = (0.0025, 0.01, 0.04, 0.16, 0.4)  # shares l of a premultiplied image's noise that are tried


class Explanation(NamedTuple):
    """How well n images are explained.

    sign : +1 where the protein is white. log_likelihood, gain : (n,) nats, the latter over images without signal.
    """

    state: State
    sign: int
    leak: float
    log_likelihood: torch.Tensor
    gain: torch.Tensor


def explain(
    projections: torch.Tensor, images: torch.Tensor, contrast: torch.Tensor, state: State, sign: int, leak: float = 0.0
) -> Explanation:
    """One explanation of images.

    Parameters
    ----------
    projections, images : (n, D, D//2+1) spectra of projections (density positive) and of the images.
    contrast : (n, D, D//2+1) CTF, sin chi.
    """
    transfer = contrast
    colour: torch.Tensor | None = None
    if state is State.FLIPPED:
        transfer = contrast.abs()
    elif state is State.CORRECTED:
        transfer = torch.ones_like(contrast)
    elif state is State.PREMULTIPLIED:
        transfer = contrast.square()
        colour = transfer * (1 - leak) + leak
    model = projections * transfer
    cross = _by_shell((images * model.conj()).real, colour)
    power = _by_shell(model.abs().square(), colour)
    own = _by_shell(images.abs().square(), colour)
    size = shell_sizes(images.shape[-2], images.device)[1:-1]
    amplitude = sign * (sign * cross.sum(0) / power.sum(0).clamp_min(1e-30)).clamp_min(0.0)
    residual = own - 2 * amplitude * cross + amplitude.square() * power
    count = len(images) * size
    noise, null = (value.sum(0).clamp_min(1e-30) / count for value in (residual, own))
    fit = size * noise.log() + residual / noise
    if colour is not None:
        fit = fit + _by_shell(colour.log(), None)
    gain = (own - residual) / null
    return Explanation(state, sign, leak, -0.5 * fit.sum(1), 0.5 * gain.sum(1))


def explanations(projections: torch.Tensor, images: torch.Tensor, contrast: torch.Tensor) -> list[Explanation]:
    """All states and signs of the images, the likeliest first."""
    tried = [(state, leak) for state in State for leak in (LEAKS if state is State.PREMULTIPLIED else (0.0,))]
    found = [explain(projections, images, contrast, state, sign, leak) for state, leak in tried for sign in (1, -1)]
    return sorted(found, key=lambda e: -float(e.log_likelihood.double().sum()))


def margin(first: torch.Tensor, second: torch.Tensor) -> float:  # (n,), (n,)
    """Standard errors by which the first explanation's values exceed the second's."""
    difference = (first - second).double()
    error = float(difference.std()) / len(difference) ** 0.5
    mean = float(difference.mean())
    # float32 sums of some thousand nats: what is less than their rounding is no difference
    smallest = 1e-6 * float(first.abs().mean() + second.abs().mean())
    return 0.0 if abs(mean) <= smallest or len(difference) < LEAST_IMAGES else mean / max(error, 1e-30)


def _by_shell(values: torch.Tensor, colour: torch.Tensor | None) -> torch.Tensor:  # (n, D, D//2+1) -> (n, D//2-1)
    """Sums over the full plane of each shell but the mean and the last, divided by the noise's colour first."""
    box = values.shape[-2]
    weighted = (values if colour is None else values / colour) * half_plane_weight(box, values.device)
    total = values.new_zeros(len(values), box // 2 + 1)
    return total.index_add_(1, shells(box, str(values.device)).flatten(), weighted.flatten(1))[:, 1:-1]
