"""What each step of an epoch takes, one row a step, so that a step reads all of it by one gather."""

from __future__ import annotations

import math

import torch

ALIGNMENT = 4
"""Entries begin at multiples of this many numbers: kernels read 16 bytes at once."""


class StepTable:
    """Tensors of fixed shapes, one of each for every step.

    Parameters
    ----------
    steps : number of steps.
    shapes : of each entry of a step, by name.
    """

    def __init__(self, steps: int, shapes: dict[str, tuple[int, ...]], device: torch.device) -> None:
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        width = 0
        for name, shape in shapes.items():
            self._places[name] = (width, shape)
            width += -(-math.prod(shape) // ALIGNMENT) * ALIGNMENT
        self._values = torch.zeros(steps, width, device=device)

    def set(self, name: str, values: torch.Tensor) -> None:
        """Set an entry of every step: (steps, *shape)."""
        begin, shape = self._places[name]
        self._values[:, begin : begin + math.prod(shape)] = values.reshape(len(self._values), -1)

    def row(self, step: torch.Tensor) -> dict[str, torch.Tensor]:  # (1,) int64, on the device
        """The entries of one step, by name."""
        row = self._values.index_select(0, step)[0]
        return {
            name: row[begin : begin + math.prod(shape)].view(shape) for name, (begin, shape) in self._places.items()
        }
