"""Errors of poses, contrast and defocus, estimated for every image together with its latent, and integrated out.

The image of a particle with latent z is

    Y = a C(d + e) P(exp[w] R, t + s) G(z) + noise,

where pose (R, t) and defocus d are those given, and the nuisances q = (w, s, a - 1, e) are seven numbers: the turn w
(radians, about the image's x, y and z), the shift s (x and y, pixels), the contrast a - 1, and the error e of the
defocus (Angstrom). They are normal with mean 0 and widths (standard deviations) that are estimated from all images
(:func:`fit_widths`); with exact data the widths fall to LEAST. To first order about the present estimate, v = (q /
widths, z) has a standard normal prior and the log-likelihood

    log L(v) = b . v - 1/2 v^T J v - 1/2 chi^2,

with J the inner products of the derivatives of the image (whitened by the noise) and chi its residual at v = 0. The
derivatives by q are exact and cheap: as the Gaussians are isotropic, turning a particle moves their centres alone
(:func:`derivatives`). With q integrated out, z has the Schur complement (``joint_posterior.marginal``), so that what
pose errors and motion explain alike counts for neither.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch

from gaussianem_core.imaging.ctf import ctf_by_defocus
from gaussianem_core.training.forward_model import Views
from gaussianem_core.training.mixture_prior import inverse_root

COUNT = 7
ROTATION, SHIFT, CONTRAST, DEFOCUS = slice(0, 3), slice(3, 5), 5, 6
KINDS = ("out of plane", "in plane", "shift", "contrast", "defocus")
KIND = (0, 0, 1, 2, 2, 3, 4)
"""Index in KINDS of each of the seven numbers: those of a kind share a width."""

DEGREE = math.pi / 180
FIRST = (1.0 * DEGREE, 1.0 * DEGREE, 0.3, 0.2, 100.0)
LEAST = (0.02 * DEGREE, 0.02 * DEGREE, 0.005, 0.005, 2.0)
MOST = (3.0 * DEGREE, 3.0 * DEGREE, 3.0, 0.5, 300.0)
"""Widths of each kind (radians, radians, pixels, -, Angstrom): the first, the least and the most. No refinement leaves
poses with larger errors than the most: what looks so in few images of a small molecule is motion."""

LARGEST_TURN, LARGEST_SHIFT, LARGEST_LATENT = 4.0 * DEGREE, 1.0, 1.5
"""Limits of one Gauss-Newton step (radians, pixels, units of z), beyond which the derivatives do not hold."""

DEFOCUS_TOLD = (0.03, 0.1)
"""Shares by which images reduce the variance of defocus: below the first, defocus stays as given; from the second on it
is estimated in full. At low resolution images do not determine it, and what they seem to say of it is another error of
the model."""

SCORING_STEPS, SCORING_PARTICLES = 20, 4000
"""Steps of the estimate of the widths, and about how many images it uses at most (fewer than twice as many)."""

GIVEN_RIGHT = 20.0
"""Prior weight, in images, of exact poses, contrast and defocus: a few images are no proof of errors."""


def first_widths(held: Collection[str], device: torch.device) -> torch.Tensor:  # (7,)
    """Initial widths of the seven numbers; 0 for the kinds ``held`` (of KINDS), which are taken as given."""
    values = [0.0 if KINDS[kind] in held else FIRST[kind] for kind in KIND]
    return torch.tensor(values, device=device)


def corrected(views: Views, q: torch.Tensor) -> Views:  # (B, 7)
    """The views corrected by ``q``: rotations exp[w] R, shifts t + s, both defocus values plus e."""
    ctf = views.ctf.clone()
    ctf[:, 2:4] += q[:, DEFOCUS, None]
    return Views(rotation_matrix(q[:, ROTATION]) @ views.rotations, views.shifts + q[:, SHIFT], ctf)


def in_widths(q: torch.Tensor, widths: torch.Tensor) -> torch.Tensor:  # (B, 7), (7,) -> (B, 7)
    """q / widths, or 0 where a number is held as given (width 0)."""
    return q / widths.clamp_min(1e-30) * (widths > 0)


def rotation_matrix(vector: torch.Tensor) -> torch.Tensor:  # (B, 3) -> (B, 3, 3)
    """Rotation about a vector by its length in radians (Rodrigues' formula)."""
    angle = (vector.square().sum(-1) + 1e-20).sqrt()[:, None, None]
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    eye = torch.eye(3, device=vector.device, dtype=vector.dtype)
    return eye + torch.sin(angle) / angle * cross + 2 * (torch.sin(angle / 2) / angle).square() * (cross @ cross)


def depths(positions: torch.Tensor, rotations: torch.Tensor, box: int) -> torch.Tensor:  # (B, M, 3) -> (B, M)
    """Coordinate of rotated Gaussians along the beam, in pixels. Projections of densities times this give
    :func:`derivatives` the turns out of the plane."""
    return (positions @ rotations[:, 2:].transpose(1, 2))[..., 0] * (box / 2)


def derivatives(
    projection: torch.Tensor, deep: torch.Tensor, views: Views, contrast: torch.Tensor, transfer: torch.Tensor
) -> torch.Tensor:  # (B, D, D//2+1) x 2, B views, (B,), (B, D, D//2+1) -> (B, 7, D, D//2+1)
    """Derivatives of the images' spectra by the seven numbers q, at the present ``views`` and ``contrast`` a.

    ``projection``: spectra before the CTF; ``deep``: the same of densities times :func:`depths`; ``transfer``: the CTF
    of the views. With x = (exp[w] R r) in pixels, dx/dw = e_w x x: a turn about x or y moves a Gaussian by its depth,
    one about z turns the image about the particle's centre; a shift is a phase.
    """
    box = projection.shape[-2]
    geometric = pose_derivatives(projection, deep, views.shifts)
    a = contrast[:, None, None]
    return torch.cat(
        [
            geometric * (a * transfer)[:, None],
            (projection * transfer)[:, None],
            (projection * a * ctf_by_defocus(views.ctf, box))[:, None],
        ],
        dim=1,
    )


def pose_derivatives(
    projection: torch.Tensor, deep: torch.Tensor, shifts: torch.Tensor
) -> torch.Tensor:  # (B, D, D//2+1) x 2, (B, 2) -> (B, 5, D, D//2+1)
    """Derivatives of projections' spectra, before the CTF, by turn (per radian) and shift (per pixel); arguments as for
    :func:`derivatives`."""
    box, device = projection.shape[-2], projection.device
    fy = torch.fft.fftfreq(box, device=device)[:, None].expand(projection.shape[-2:])
    fx = torch.fft.rfftfreq(box, device=device).expand(projection.shape[-2:])
    # The Nyquist frequency is its own alias: it has no direction.
    by_y = 2j * math.pi * fy * (fy.abs() < 0.5)
    by_x = 2j * math.pi * fx * (fx.abs() < 0.5)
    pixel = torch.arange(box, device=device) - box // 2
    x, y = pixel + shifts[:, :1, None], pixel[:, None] + shifts[:, 1:, None]
    gx, gy = (torch.fft.irfft2(by * projection, s=(box, box), norm="ortho") for by in (by_x, by_y))
    turned = torch.fft.rfft2(y * gx - x * gy, norm="ortho")
    return torch.stack([by_y * deep, -by_x * deep, turned, by_x * projection, by_y * projection], dim=1)


def fit_widths(
    linear: torch.Tensor, information: torch.Tensor, widths: torch.Tensor, share: torch.Tensor
) -> torch.Tensor:  # (N, n), (N, n, n), (7,), (N,) -> (7,)
    """The prior widths under which the images are most likely.

    ``linear`` (N, n), ``information`` (N, n, n): quadratics of the images in v, its nuisances in units of ``widths``
    (7,); ``share`` (N,): weight of each image. The images' log-evidence as a function of theta, the logarithm of a
    squared width, has the slope 1/2 sum (m^2 + s^2 - 1), with the posterior means m and variances s^2 in units of the
    width, and about the curvature 1/2 sum (1 - s^2)^2. Fisher's scoring with these reaches the maximum, or LEAST, in a
    few steps, where expectation maximisation stalls near 0. A width of 0 stays 0, and without images all stay.
    """
    if not len(share):
        return widths
    step = max(1, len(share) // SCORING_PARTICLES)
    linear, information = (t[::step].double() for t in (linear, information))
    share = share[::step].double()
    kind = torch.tensor(KIND, device=widths.device)
    members = torch.nn.functional.one_hot(kind, len(KINDS)).double()
    least, most = (torch.tensor(values, device=widths.device).double()[kind] for values in (LEAST, MOST))
    free = widths > 0
    factor = torch.ones_like(linear[0])
    start = widths.double()
    for _ in range(SCORING_STEPS):
        scaled = information * factor * factor[:, None]
        root, _ = inverse_root(scaled + torch.eye(len(factor), device=widths.device))
        mean = (root @ (root.mT @ (linear * factor)[..., None]))[..., 0][:, :COUNT]
        variance = root.square().sum(-1)[:, :COUNT]
        right = GIVEN_RIGHT * (share[:, None] * variance).sum(0) / share.sum().clamp_min(1e-6) - GIVEN_RIGHT
        slope = ((share[:, None] * (mean.square() + variance - 1)).sum(0) + right) @ members
        curvature = ((1 + GIVEN_RIGHT / len(share)) * (share[:, None] * (1 - variance).square()).sum(0)) @ members
        change = (slope / curvature.clamp_min(1e-12)).clamp(-2.0, 2.0)[kind]
        now = (start * factor[:COUNT] * (0.5 * change).exp()).clamp(least, most)
        factor[:COUNT] = torch.where(free, now / start, 1.0)
    told = (share * (1 - variance[:, DEFOCUS])).sum() / share.sum().clamp_min(1e-6)
    factor[DEFOCUS] *= ((told - DEFOCUS_TOLD[0]) / (DEFOCUS_TOLD[1] - DEFOCUS_TOLD[0])).clamp(0, 1)
    factor[:COUNT] = torch.where(free, (start * factor[:COUNT]).clamp_min(least) / start, 1.0)
    return torch.where(free, start * factor[:COUNT], 0.0).float()
