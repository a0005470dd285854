"""The progress of a whole job from that of its stages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gaussianem_core.job.events import JobLog, read_events
from gaussianem_core.job.plan import JobPlan

SHARES = {"load": 1, "search": 3, "train": 6}


def run(plan: JobPlan, seconds: dict[str, float], ticks: int = 20, began: float = 0.0) -> list[tuple[float, float]]:
    """A job whose stages take so many seconds: (true share of the time behind, what the plan says), at each report."""
    now, whole, found = began, sum(seconds.values()), []
    for stage, long in seconds.items():
        for tick in range(1, ticks + 1):
            now += long / ticks
            plan.update(stage, tick, ticks, long * (1 - tick / ticks), now)
            found.append(((now - began) / whole, plan.fraction, plan.left_seconds))
    return found


def test_a_job_that_takes_the_usual_shares_is_told_exactly():
    for true, told, left in run(JobPlan(SHARES, began=1e-9), {"load": 10.0, "search": 30.0, "train": 60.0}):
        assert told == pytest.approx(true, abs=1e-6)
        assert left is None or left == pytest.approx(100 * (1 - true), rel=0.02, abs=0.2)


def test_a_stage_that_ends_is_not_the_end_of_the_job():
    # stages that take quite other shares than usual
    found = run(JobPlan(SHARES, began=1e-9), {"load": 1.0, "search": 300.0, "train": 60.0})
    told = np.array([fraction for _, fraction, _ in found])
    assert (np.diff(told) >= 0).all() and told[-1] == 1.0
    assert (told[:-1] < 1.0).all()
    assert all(left > 0 for true, _, left in found if true < 1 and left is not None)
    ends = [left for (true, fraction, left) in found if fraction == pytest.approx(0.4)]
    assert ends and ends[-1] > 30  # "0 s left" is what the stage says


def test_parts_of_another_stage_move_nothing_and_repeated_ones_never_end():
    plan = JobPlan(SHARES, repeated=["search"])
    plan.update("load", 1, 1, 0.0, 1.0)
    plan.update("refine", 1, 1, 0.0, 2.0)
    assert plan.fraction == pytest.approx(0.1)
    seen = []
    for _ in range(12):
        for done in (1, 5, 10):
            plan.update("search", done, 10, 0.0, 3.0)
            seen.append(plan.fraction)
    assert (np.diff(seen) >= 0).all() and 0.35 < seen[-1] < 0.4
    plan.update("train", 0, 10, 5.0, 4.0)
    assert plan.fraction == pytest.approx(0.4)


def test_one_that_goes_on_and_a_half_set_count_from_where_they_begin():
    again = JobPlan({"train": 1}, began=100.0)
    again.update("train", 50, 100, None, 100.0)  # from a checkpoint in the middle
    assert again.fraction == 0.5 and again.left_seconds is None
    again.update("train", 75, 100, 50.0, 150.0)
    assert again.fraction == 0.75 and again.left_seconds == pytest.approx(50.0)
    half = JobPlan(SHARES, part=(0.5, 0.75))
    told = run(half, {"load": 1.0, "search": 3.0, "train": 6.0})
    assert told[0][1] > 0.5 and told[-1][1] == pytest.approx(0.75) and told[-1][2] == pytest.approx(10.0, rel=0.1)


def test_the_job_directory_tells_the_plan_and_the_whole_progress(tmp_path: Path):
    with JobLog(tmp_path, ["job"]) as log:
        log.plan(SHARES)
        for stage in SHARES:
            log.progress(stage, 1, 2, every=0.0)
            log.progress(stage, 2, 2, every=0.0)
    events = read_events(tmp_path / "events.jsonl")[0]
    assert next(e for e in events if e["type"] == "plan")["stages"] == list(SHARES)
    told = [e["job_fraction"] for e in events if e["type"] == "progress"]
    assert told == pytest.approx([0.05, 0.1, 0.25, 0.4, 0.7, 1.0])
    assert all("job_left_seconds" in e for e in events if e["type"] == "progress")
    assert json.dumps(events)
