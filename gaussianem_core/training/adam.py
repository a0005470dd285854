"""Adam by torch's kernels, without the classes of ``torch.optim``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.optim.adam import adam

from gaussianem_core.runtime.device import Aside

EPSILON = 1e-8  # torch's
PIECE, PIECES = 4096, 32  # numbers that a block of threads updates, and how many blocks at a time
MOST = 1 << 21  # numbers, above which they are so many that they fill a GPU anyway


class Moments(NamedTuple):
    """What Adam keeps of a parameter, under torch's names: number of steps (), and the first and second moments of its
    gradient, of the parameter's shape."""

    step: torch.Tensor
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor


class Adam:
    """Adam (Kingma and Ba, ICLR 2015, Algorithm 1): to the bit the steps of ``torch.optim.Adam``.

    Those of ``torch.optim`` load torch's compiler when the first of them is made, a second before the first step.

    Parameters
    ----------
    groups : each with ``params``, tensors, and ``lr``, their rate: a number or, so that a CUDA graph can hold the step,
        a tensor on the GPU. Other entries are kept in ``param_groups``.
    betas : shares of the moments that a step keeps.
    fused : one kernel for all, as torch's option of this name.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.999), fused: bool = False
    ) -> None:
        self.param_groups = [dict(group, params=list(group["params"])) for group in groups]
        self.betas, self.fused = betas, fused
        self.parameters: list[torch.Tensor] = [p for group in self.param_groups for p in group["params"]]
        self._moments = {p: self._new(p) for p in self.parameters}
        few = sum(p.numel() for p in self.parameters) <= MOST
        self._in_pieces = fused and few and all(p.is_cuda for p in self.parameters)

    def _new(self, p: torch.Tensor) -> Moments:
        step = torch.zeros((), dtype=torch.float32, device=p.device if self.fused else "cpu")
        return Moments(step, torch.zeros_like(p, requires_grad=False), torch.zeros_like(p, requires_grad=False))

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self, beside: Sequence[Aside] = ()) -> None:
        """One step of the parameters that have a gradient.

        On CUDA torch takes 65,536 numbers to a block of threads of its fused kernel, and a network of some matrices
        keeps but a few multiprocessors busy: so it is given its parameters in pieces of PIECE, unless there are more
        than MOST. ``beside``: where parts of it may run then.
        """
        given: dict[str, Any] = {"beta1": self.betas[0], "beta2": self.betas[1], "eps": EPSILON}
        given |= {"weight_decay": 0.0, "amsgrad": False, "maximize": False}
        if not self._in_pieces:
            for group in self.param_groups:
                values, gradients, moments = self._learnt(group)
                first, second = [m.exp_avg for m in moments], [m.exp_avg_sq for m in moments]
                steps, fused = [m.step for m in moments], True if self.fused else None  # None: torch chooses
                adam(values, gradients, first, second, [], steps, fused=fused, lr=group["lr"], **given)
            return
        torch._foreach_add_([m.step for group in self.param_groups for m in self._learnt(group)[2]], 1)
        parts = [(group["lr"], part) for group in self.param_groups for part in self._pieces(group)]
        for aside in beside:
            aside.fork()
        for number, (rate, (values, gradients, first, second, steps)) in enumerate(parts):
            turn = min(number, len(beside))  # the last, of few numbers each, share a stream
            with beside[turn - 1] if turn else contextlib.nullcontext():
                torch._fused_adam_(values, gradients, first, second, [], steps, lr=rate, **given)
        for aside in beside:
            aside.join()

    def _learnt(self, group: dict[str, Any]) -> tuple[list[torch.Tensor], list[torch.Tensor], list[Moments]]:
        """Parameters of a group that have a gradient, these gradients, and their moments."""
        values = [p for p in group["params"] if p.grad is not None]
        return values, [p.grad for p in values], [self._moments[p] for p in values]

    def _pieces(self, group: dict[str, Any]) -> Iterator[list[list[torch.Tensor]]]:
        """Pieces of values, gradients, first and second moments, and their numbers of steps, of the parameters of a
        group: PIECES of each at a time, as many as torch takes in one launch."""
        lists: list[list[torch.Tensor]] = [[], [], [], [], []]
        for p, gradient, moments in zip(*self._learnt(group)):
            pieces = [t.detach().view(-1).split(PIECE) for t in (p, gradient, moments.exp_avg, moments.exp_avg_sq)]
            for values, more in zip(lists, (*pieces, [moments.step] * len(pieces[0]))):
                values.extend(more)
        for begin in range(0, len(lists[0]), PIECES):
            yield [values[begin : begin + PIECES] for values in lists]

    def state_dict(self) -> dict[str, Any]:
        """The moments of all parameters by number, in the form of ``torch.optim``."""
        return {"state": {number: self._moments[p]._asdict() for number, p in enumerate(self.parameters)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`, or from one of ``torch.optim``. Raises ValueError if it is not that of such
        parameters, KeyError if it lacks something."""
        kept = state["state"]
        if kept and len(kept) != len(self.parameters):
            raise ValueError(f"the optimiser has {len(self.parameters)} parameters, the checkpoint {len(kept)}")
        for number, p in enumerate(self.parameters if kept else []):
            for name, own in self._moments[p]._asdict().items():
                value = kept[number][name]
                if value.shape != own.shape:
                    shapes = f"{tuple(own.shape)}, in the checkpoint {tuple(value.shape)}"
                    raise ValueError(f"{name} of the optimiser's parameter {number} is {shapes}")
                own.copy_(value)
