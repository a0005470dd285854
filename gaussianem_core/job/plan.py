"""How far a whole job is, from the progress of its stages and their usual shares of its time. No torch.

Without it a stage that ends in the middle of the job would show the job at "100 %, 0 s left".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

EACH_ROUND = 0.3  # of what is left of a repeated stage, for each of its rounds: how many there will be is unknown
GOES_ON = 0.2  # a stage whose first word is that more than this is done goes on from an earlier run
LEAST_DONE = 0.02  # of the job, before its speed so far says anything: the program's own start is in it


class JobPlan:
    """Progress of a job from that of its stages.

    Stages that are not in the plan (a part of another stage) are ignored.

    Parameters
    ----------
    shares : usual time of each stage, in order, in any unit. repeated : stages that run several times.
    part : the plan is of this part of the job, from 0 to 1. began : Unix seconds; 0 for the time of the first update.

    Attributes
    ----------
    fraction : how much of the job is done, from 0 to 1; it never falls.
    left_seconds : estimate for the rest of the job; None while too little is done to tell.
    """

    def __init__(
        self,
        shares: Mapping[str, float],
        repeated: Collection[str] = (),
        part: tuple[float, float] = (0.0, 1.0),
        began: float = 0.0,
    ) -> None:
        self.shares = dict(shares)
        self._repeated, self._part, self._began = frozenset(repeated), part, began
        self._total = sum(self.shares.values())
        self._rounds: dict[str, int] = {}
        self._inside: dict[str, float] = {}
        self._seen: set[str] = set()
        self._given = part[0]  # what was done before: it took no time now
        self.fraction = part[0]
        self.left_seconds: float | None = None

    def update(self, stage: str, done: float, total: float, left_seconds: float | None, now: float) -> None:
        """Take up the progress of a stage: ``done`` of ``total`` and its own ``left_seconds``, at ``now`` (Unix s)."""
        if stage not in self.shares:
            return
        inside = min(max(done / total, 0.0), 1.0) if total else 0.0
        if stage in self._repeated:
            if inside < self._inside.get(stage, 0.0):
                self._rounds[stage] = self._rounds.get(stage, 0) + 1
            self._inside[stage] = inside
            inside = 1.0 - (1.0 - EACH_ROUND) ** (self._rounds.get(stage, 0) + inside)
            left_seconds = None
        if stage not in self._seen and GOES_ON < inside < 1.0:
            self._given += self._whole(self.shares[stage] * inside) - self._part[0]
        self._seen.add(stage)
        names = list(self.shares)
        before = sum(self.shares[name] for name in names[: names.index(stage)])
        here = self._whole(before + self.shares[stage] * inside)
        self.fraction = max(self.fraction, here)
        self._began = self._began or now
        made = self.fraction - self._given
        if made < LEAST_DONE:
            self.left_seconds = None
            return
        each = (now - self._began) / made  # seconds for the whole, at the speed so far
        after = 1.0 - self._whole(before + self.shares[stage])
        rest = left_seconds if left_seconds is not None else each * max(1.0 - after - self.fraction, 0.0)
        self.left_seconds = rest + each * after

    def _whole(self, share: float) -> float:
        low, high = self._part
        return low + (high - low) * share / self._total
