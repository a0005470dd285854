"""A request to stop that comes while a job begins or ends: how it ended is written all the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gaussianem_core.errors import AbortRequested, InputError
from gaussianem_core.job.events import ABORTED, EVENTS, SUCCESS, JobLog, read_events

STOPS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture()
def outside() -> Iterator[list[int]]:
    """The signals that the job did not take, so that they would have ended the process."""
    taken: list[int] = []
    before = {number: signal.signal(number, lambda n, frame: taken.append(n)) for number in STOPS}
    yield taken
    for number, handler in before.items():
        signal.signal(number, handler)


def send_at(type: str, number: int, times: int = 1) -> Callable[[dict[str, Any]], None]:
    """An echo that sends this process a signal at the event of this type."""

    def echo(event: dict[str, Any]) -> None:
        if event["type"] == type:
            for _ in range(times):
                os.kill(os.getpid(), number)

    return echo


@pytest.mark.parametrize("number", STOPS)
def test_a_request_at_the_first_event_stops_the_job(number: int, tmp_path: Path, outside: list[int]) -> None:
    with pytest.raises(AbortRequested), JobLog(tmp_path, ["train"], echo=send_at("start", number)) as log:
        log.progress("load images", 1, 1)
    assert not outside
    assert (tmp_path / ABORTED).exists() and read_events(tmp_path / EVENTS)[0][-1]["status"] == "aborted"


@pytest.mark.parametrize("number", STOPS)
def test_requests_at_the_last_event_come_too_late(number: int, tmp_path: Path, outside: list[int]) -> None:
    with JobLog(tmp_path, ["train"], echo=send_at("end", number, times=2)):
        pass
    assert not outside
    assert (tmp_path / SUCCESS).exists() and not (tmp_path / "heartbeat.json").exists()
    os.kill(os.getpid(), number)
    assert outside == [number], "afterwards it is as before"


def test_a_job_that_cannot_begin_leaves_signals_as_they_were(tmp_path: Path, outside: list[int]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="writable directory"), JobLog(tmp_path / "file", ["train"]):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    assert outside == [signal.SIGTERM]
