"""Evidence for how images were treated: the transfer from projections that explains them best, and its significance.

With F a projection's spectrum and c the CTF (sin chi), an image is Y = a T(c) F + noise of variance s q(c), where

    as recorded       T = c      q = 1            multiplied by c       T = c^2   q = c^2 (1 - l) + l
    phase-flipped     T = |c|    q = 1            corrected             T = 1     q = 1

The amplitude a >= 0 (times one sign for all) and the noise power s are free in each shell, so that neither the map's
fall-off nor the noise's colour matters; l is the share of noise that cropping the images after the multiplication
mixed in. Where it fits better, what the projections do not explain of the molecule counts as noise too, as strong as
what they explain: it is seen through the same T. Two such explanations are compared by the log-likelihoods of single
images: the mean of their difference over its standard error is a standard normal number where neither is better
(Vuong, Econometrica 57, 307 (1989)).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from gaussianem_core.imaging.aberrations import State
from gaussianem_core.imaging.fourier import half_plane_weight, shell_sizes, shells

SURE = 5.0
"""Standard errors by which one explanation must beat another."""

LEAST_IMAGES = 20
LEAKS = (0.0025, 0.01, 0.04, 0.16, 0.4)
"""Values tried of l, the share of mixed-in noise of premultiplied images."""


class Explanation(NamedTuple):
    """Fit of one transfer to n images.

    state : treatment of the images. sign : +1 where the protein is white, else -1. leak : share l of mixed-in noise.
    log_likelihood : (n,) nats, up to a constant. gain : (n,) nats, over noise alone.
    """

    state: State
    sign: int
    leak: float
    log_likelihood: torch.Tensor
    gain: torch.Tensor

    @property
    def total(self) -> float:
        """Log-likelihood (nats) of all images."""
        return float(self.log_likelihood.double().sum())


class Products(NamedTuple):
    """What the fits need of n images Y and projections F, whatever the transfer between them.

    cross : (n, D, D//2+1) Re(Y F*). projected : (n, D, D//2+1) |F|^2. own : (n, D, D//2+1) |Y|^2.
    """

    cross: torch.Tensor
    projected: torch.Tensor
    own: torch.Tensor

    @classmethod
    def of(cls, projections: torch.Tensor, images: torch.Tensor) -> Products:
        """The products of spectra (n, D, D//2+1) of projections (density positive) and of the images."""
        f, y = projections, images
        cross = torch.addcmul(f.real * y.real, f.imag, y.imag)
        # not abs().square(), whose root costs more than all else here
        projected, own = (torch.addcmul(z.real.square(), z.imag, z.imag) for z in (f, y))
        return cls(cross, projected, own)

    def rows(self, index: torch.Tensor | slice) -> Products:
        """The products of some of the images."""
        return Products(*(values[index] for values in self))


def explain(
    products: Products, contrast: torch.Tensor, state: State, leak: float = 0.0
) -> tuple[Explanation, Explanation]:
    """The fits with both signs of the protein, the likelier first, for one state of the images.

    Parameters
    ----------
    products : of n images and their projections.
    contrast : (n, D, D//2+1) CTF, sin chi.
    """
    one = torch.ones_like(contrast[:1])
    transfer = {State.FLIPPED: contrast.abs(), State.CORRECTED: one}.get(state, contrast)
    colour = one
    if state is State.PREMULTIPLIED:
        transfer = contrast.square()
        colour = transfer * (1 - leak) + leak
    sums = _Sums.of(products, transfer, colour)
    plain = [sums.fit(state, sign, leak) for sign in (1, -1)]
    power = _by_shell(products.projected.sum(0, keepdim=True))[0]
    ratio = sums.signal_to_noise(max(plain, key=lambda e: e.total).sign, power)
    ratio = torch.nn.functional.pad(ratio, (1, 1))[shells(contrast.shape[-2], str(contrast.device))]
    sums = _Sums.of(products, transfer, colour + ratio * transfer.square())
    better = [max(first, sums.fit(state, first.sign, leak), key=lambda e: e.total) for first in plain]
    better.sort(key=lambda e: -e.total)
    return better[0], better[1]


def explanations(products: Products, contrast: torch.Tensor) -> list[Explanation]:
    """The fits of all states, signs and LEAKS, the likeliest first; arguments as for :func:`explain`."""
    tried = [(state, leak) for state in State for leak in (LEAKS if state is State.PREMULTIPLIED else (0.0,))]
    found = [one for state, leak in tried for one in explain(products, contrast, state, leak)]
    return sorted(found, key=lambda e: -e.total)


def margin(first: torch.Tensor, second: torch.Tensor) -> float:  # (n,), (n,)
    """Mean difference of two explanations' log-likelihoods in standard errors (Vuong, Econometrica 57, 1989).

    0 for fewer than LEAST_IMAGES images, and for differences within rounding.
    """
    difference = (first - second).double()
    error = float(difference.std()) / len(difference) ** 0.5
    mean = float(difference.mean())
    # float32 sums of some thousand nats: what is less than their rounding is no difference
    smallest = 1e-6 * float(first.abs().mean() + second.abs().mean())
    return 0.0 if abs(mean) <= smallest or len(difference) < LEAST_IMAGES else mean / max(error, 1e-30)


class _Sums(NamedTuple):
    """Sums over the shells of n images (n, S), weighted by 1 / colour: of model and image, of both squared; and of the
    colour's logarithm, (1, S) where it is one for all. ``size`` (S,) components a shell."""

    cross: torch.Tensor
    power: torch.Tensor
    own: torch.Tensor
    colour: torch.Tensor
    size: torch.Tensor

    @classmethod
    def of(cls, products: Products, transfer: torch.Tensor, colour: torch.Tensor) -> _Sums:
        weighted = transfer / colour
        return cls(
            _by_shell(products.cross * weighted),
            _by_shell(products.projected * (weighted * transfer)),
            _by_shell(products.own / colour),
            _by_shell(colour.log()),
            shell_sizes(colour.shape[-2], colour.device)[1:-1],
        )

    def amplitude(self, sign: int) -> torch.Tensor:  # (S,)
        return sign * (sign * self.cross.sum(0) / self.power.sum(0).clamp_min(1e-30)).clamp_min(0.0)

    def residual(self, sign: int) -> torch.Tensor:  # (n, S)
        a = self.amplitude(sign)
        return self.own - 2 * a * self.cross + a.square() * self.power

    def fit(self, state: State, sign: int, leak: float) -> Explanation:
        """The explanation at the most likely amplitude and noise power of each shell."""
        residual, count = self.residual(sign), len(self.own) * self.size
        noise, null = (value.sum(0).clamp_min(1e-30) / count for value in (residual, self.own))
        values = self.size * noise.log() + residual / noise + self.colour
        gain = (self.own - residual) / null
        return Explanation(state, sign, leak, -0.5 * values.sum(1), 0.5 * gain.sum(1))

    def signal_to_noise(self, sign: int, projected: torch.Tensor) -> torch.Tensor:  # (S,) -> (S,)
        """Power of the projections at the fitted amplitude, before the transfer, over the noise's."""
        return self.amplitude(sign).square() * projected / self.residual(sign).sum(0).clamp_min(1e-30)


def _by_shell(values: torch.Tensor) -> torch.Tensor:  # (n, D, D//2+1) -> (n, D//2-1)
    """Sums over the full plane of each shell but the mean and the last."""
    box = values.shape[-2]
    weighted = (values * half_plane_weight(box, values.device)).flatten(1)
    total = values.new_zeros(len(values), box // 2 + 1)
    return total.index_add_(1, shells(box, str(values.device)).flatten(), weighted)[:, 1:-1]
