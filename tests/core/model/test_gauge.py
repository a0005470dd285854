"""The part that keeps its shape stays where it is; what turns or scales all alike is taken away."""

from __future__ import annotations

import torch

from gaussianem_core.model.gauge import find_gauge, make_gauge
from gaussianem_core.model.gaussians import Gaussians, inverse_softplus

PIXEL = 2 / 64


def molecule() -> tuple[Gaussians, torch.Tensor]:
    """400 Gaussians, and which third of them is a domain at one end."""
    generator = torch.Generator().manual_seed(0)
    positions = torch.randn(400, 3, generator=generator) * torch.tensor([0.3, 0.15, 0.12])
    densities = 1 + torch.rand(400, generator=generator)
    domain = positions[:, 0] > positions[:, 0].quantile(2 / 3)
    return Gaussians(positions, inverse_softplus(densities), torch.zeros(400), 0.01, 0.05), domain


def turned(positions: torch.Tensor, turn: tuple[float, ...], shift: tuple[float, ...]) -> torch.Tensor:
    return torch.linalg.cross(torch.tensor(turn).expand_as(positions), positions) + torch.tensor(shift)


def test_a_rigid_motion_and_a_common_factor_are_removed() -> None:
    gaussians, _ = molecule()
    gauge = make_gauge(gaussians, torch.rand(400, generator=torch.Generator().manual_seed(1)) + 0.1)
    displacement = turned(gaussians.positions, (0.02, -0.01, 0.03), (0.05, 0.0, -0.02))[None]
    factor = 0.1 * gauge.factor[None]  # every density times 1.1, to first order
    moved, changed = gauge.remove(displacement, factor)
    assert moved.abs().max() < 1e-5 and changed.abs().max() < 1e-5
    rigid = gauge.rigid(displacement)[0]
    torch.testing.assert_close(rigid[:3], torch.tensor([0.02, -0.01, 0.03]), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(gauge.remove(moved, changed)[0], moved, atol=1e-6, rtol=0.0)


def test_two_products_remove_the_same_from_changes_side_by_side() -> None:
    gaussians, _ = molecule()
    generator = torch.Generator().manual_seed(2)
    gauge = make_gauge(gaussians, torch.rand(400, generator=generator) + 0.1)
    change = torch.randn(3, 400, 4, generator=generator)
    moved, changed = gauge.remove(change[..., 1:], change[..., 0])
    found = gauge.remove_from_change(change)
    torch.testing.assert_close(found, torch.cat([changed[..., None], moved], dim=-1), atol=1e-5, rtol=1e-5)


def test_a_moving_third_does_not_move_the_rest() -> None:
    """The domain turns by 20 degrees and more about its hinge, in two components; the mean of all would follow it."""
    gaussians, domain = molecule()
    hinge = gaussians.positions - gaussians.positions[domain].mean(0)
    fields = torch.stack([turned(hinge, (0.0, 0.4, 0.0), (0, 0, 0)), turned(hinge, (0.3, 0.0, 0.2), (0.05, 0, 0))])
    fields = fields * domain[:, None]
    common = turned(gaussians.positions, (0.05, 0.02, 0.0), (0.0, 0.1, 0.0))
    seen = fields + torch.stack([common, -2 * common])
    density = torch.zeros(2, 400)
    density[0] = torch.where(domain, -1.0, 0.3 / 2)  # the domain goes, and all else is a little denser
    gauge = find_gauge(gaussians, seen, density, PIXEL)
    moved, changed = gauge.remove(seen, density)
    error = (moved - fields).norm(dim=-1)
    assert float(error.max()) < 0.1 * PIXEL
    # A factor of densities is no constant change of raw density: it is removed as well as it can be.
    assert float(changed[0, ~domain].abs().mean()) < 0.03 and float(changed[0, domain].mean()) < -0.9
    mass = gaussians.densities * gaussians.sigmas**3
    naive = make_gauge(gaussians, mass).remove(seen, density)[0] - fields
    assert float(naive.norm(dim=-1).max()) > 1.0 * PIXEL


def test_a_few_gaussians_have_a_gauge_too() -> None:
    gaussians, _ = molecule()
    for count in (1, 2, 3):
        few = Gaussians(gaussians.positions[:count], gaussians.raw_density[:count], torch.zeros(count), 0.01, 0.05)
        moved, _ = find_gauge(few, torch.ones(1, count, 3) * 0.1, torch.zeros(1, count), PIXEL).remove(
            torch.ones(1, count, 3) * 0.1, torch.zeros(1, count)
        )
        assert torch.isfinite(moved).all() and moved.abs().max() < 1e-3
