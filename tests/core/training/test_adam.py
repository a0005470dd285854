"""Adam against torch's own optimiser."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from gaussianem_core.training.adam import Adam

SHAPES = [(3, 70), (5,), (2, 4, 6)]


def groups() -> list[dict[str, object]]:
    """Three parameters in two groups with rates of their own, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator).requires_grad_() for shape in SHAPES]
    return [{"params": values[:2], "lr": 0.03}, {"params": values[2:], "lr": 0.2}]


def steps(optimiser: Adam | torch.optim.Adam, count: int, seed: int = 1) -> None:
    """``count`` steps along random gradients; the second parameter has none in the first step."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(count):
        optimiser.zero_grad()
        for number, p in enumerate(p for group in optimiser.param_groups for p in group["params"]):
            gradient = torch.randn(p.shape, generator=generator)
            p.grad = None if number == 1 and step == 0 else gradient
        optimiser.step()


def values(optimiser: Adam | torch.optim.Adam) -> list[torch.Tensor]:
    """The parameters as they are."""
    return [p.detach().clone() for group in optimiser.param_groups for p in group["params"]]


@pytest.mark.parametrize("fused", [False, True])
def test_steps_are_those_of_torch(fused: bool) -> None:
    theirs = torch.optim.Adam(groups(), betas=(0.9, 0.98), fused=fused)
    ours = Adam(groups(), betas=(0.9, 0.98), fused=fused)
    for optimiser in (theirs, ours):
        steps(optimiser, 3)
        optimiser.param_groups[0]["lr"] = 0.01
        steps(optimiser, 2, seed=2)
    for expected, found in zip(values(theirs), values(ours), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.parametrize("writer", [torch.optim.Adam, Adam])
def test_goes_on_from_a_state(writer: type[Adam] | type[torch.optim.Adam]) -> None:
    """Checkpoints of earlier versions hold the state of torch's class."""
    whole, resumed = writer(groups(), fused=True), Adam(groups(), fused=True)
    steps(whole, 4)
    resumed.load_state_dict(whole.state_dict())
    with torch.no_grad():
        for group, other in zip(resumed.param_groups, whole.param_groups):
            for p, value in zip(group["params"], other["params"]):
                p.copy_(value)
    for optimiser in (whole, resumed):
        steps(optimiser, 2, seed=3)
    for expected, found in zip(values(whole), values(resumed), strict=True):
        assert torch.equal(expected, found)


def test_refuses_a_state_of_other_parameters() -> None:
    other = Adam([{"params": [torch.zeros(4, requires_grad=True) for _ in SHAPES], "lr": 0.1}])
    with pytest.raises(ValueError, match=r"parameter 0 is \(3, 70\), in the checkpoint \(4,\)"):
        Adam(groups()).load_state_dict(other.state_dict())
    fewer = Adam(groups()[:1]).state_dict()
    with pytest.raises(ValueError, match="has 3 parameters, the checkpoint 2"):
        Adam(groups()).load_state_dict(fewer)


def test_does_not_load_the_compiler_of_torch() -> None:
    """That takes a second before a training's first step. Where torch.optim.Adam no longer does, ours can go."""
    program = (
        "import sys, torch\n"
        "from gaussianem_core.training.adam import Adam\n"
        "value = torch.ones(3, requires_grad=True)\n"
        "optimiser = {}\n"
        "value.square().sum().backward()\n"
        "optimiser.step()\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    for made, loaded in (("Adam([{'params': [value], 'lr': 0.1}])", "False"), ("torch.optim.Adam([value])", "True")):
        command = [sys.executable, "-c", program.format(made)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == loaded
