"""Detail: the part of the consensus map that the Gaussians do not show, added to every decoded volume.

The consensus map M is the mean of all states, so the decoded volumes V(z) should have it as their mean. What is
missing, M - mean V, is sharp edges and negative density, which positive Gaussians cannot show, and whatever the fit
left out. It is the same for all states: it changes no difference between two of them.
"""

from __future__ import annotations

import numpy as np
import scipy
import torch

from gaussianem_core.imaging.fourier import centred_irfftn, centred_rfftn, shell_index, shell_sum

MASK_LEVEL, MASK_GROWTH, MASK_EDGE = 0.05, 0.03, 0.05
"""Level of a mask as a share of the smoothed volume's maximum; its growth and the width of its edge as shares of the
box."""
SOLVENT_GROWTH, SOLVENT_EDGE = 0.06, 0.2
"""Growth and edge, as shares of the box, of the mask outside which noise is measured (a sharp edge would spread the
molecule's own low frequencies)."""
CONSENSUS_MAP = "consensus_map.mrc"
"""File name of the consensus map in the images' box, which preprocess writes beside them."""
VOLUMES = 100
"""Number of particles whose volumes are averaged."""


def soft_mask(
    volume: torch.Tensor, growth: float = MASK_GROWTH, edge: float = MASK_EDGE
) -> torch.Tensor:  # (D, D, D) -> (D, D, D)
    """A mask from 0 to 1 around a map: smoothed, cut at MASK_LEVEL of its maximum, grown, with a cosine edge.

    ``growth``, ``edge``: shares of the box.
    """
    smooth = scipy.ndimage.gaussian_filter(volume.cpu().numpy(), 1.5)
    distance = scipy.ndimage.distance_transform_edt(smooth <= MASK_LEVEL * smooth.max()) / len(smooth)
    beyond = np.clip((distance - growth) / edge, 0, 1)
    return torch.from_numpy((0.5 + 0.5 * np.cos(np.pi * beyond)).astype(np.float32)).to(volume.device)


@torch.no_grad()
def missing_detail(consensus: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:  # 2 x (D, D, D) -> (D, D, D)
    """Detail to add to decoded volumes whose mean is ``mean``, in their units.

    Each shell of the consensus map is brought to the scale on which it predicts ``mean`` best (least squares), whatever
    its units, sharpening or filter. The difference is then weighted by a Wiener filter (Wiener, Extrapolation,
    Interpolation and Smoothing of Stationary Time Series, 1949) with the noise measured in the solvent, and by the root
    of the FSC of map and ``mean``: where the map was filtered away, the Gaussians stay as they are. The mean value,
    which images do not show, takes the scale and the FSC of the first shell. Away from all density, of Gaussians and
    map, nothing is added: there the map has noise alone.
    """
    box = mean.shape[-1]
    spectrum, made = centred_rfftn(consensus, 3), centred_rfftn(mean, 3)
    index, tiny = shell_index(box, 3, mean.device), torch.finfo(torch.float32).tiny

    def shells(values: torch.Tensor) -> torch.Tensor:  # -> (D/2,)
        return shell_sum(values, box, 3).double()

    def spread(factors: torch.Tensor) -> torch.Tensor:  # (D/2,) -> of a spectrum
        # Corners beyond Nyquist are no shell: nothing is added there.
        return torch.nn.functional.pad(factors, (0, int(index.max()) + 1 - len(factors))).float()[index]

    cross, power = shells((spectrum.conj() * made).real), shells(spectrum.abs().square())
    scale = (cross / power.clamp_min(tiny)).clamp_min(0)
    scale[0] = scale[1]
    spectrum = spectrum * spread(scale)
    difference = spectrum - made
    solvent = 1 - soft_mask(mean, SOLVENT_GROWTH, SOLVENT_EDGE)
    noise = shells(centred_rfftn(centred_irfftn(spectrum, 3, box) * solvent, 3).abs().square())
    noise = noise / solvent.square().mean().clamp_min(1e-3)  # with little solvent the noise is underestimated
    weight = (1 - noise / shells(difference.abs().square()).clamp_min(tiny)).clamp(0, 1)
    weight[0] = 1.0
    agreement = (cross / (power * shells(made.abs().square())).clamp_min(tiny).sqrt()).clamp(0, 1).sqrt()
    agreement[0] = agreement[1]
    detail = centred_irfftn(difference * spread(weight * agreement), 3, box)
    return detail * soft_mask(torch.maximum(mean, centred_irfftn(spectrum, 3, box)))
