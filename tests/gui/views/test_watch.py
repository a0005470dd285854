"""Histories and logs read from growing files."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from gaussianem_core.job.events import EVENTS, JobLog
from gaussianem_gui.execution.history import History, Watcher, average, smooth, thin
from gaussianem_gui.execution.logfile import LogFile


def test_a_history_has_every_number_that_a_job_wrote(tmp_path: Path) -> None:
    with JobLog(tmp_path, ["gaussianem", "train"]) as log:
        history = History(tmp_path)
        for step in range(500):
            log.metric("train", step, step / 100, loss=1 / (1 + step), kl=float("nan"))
            if step % 50 == 0:
                history.poll()
        log.progress("train", 500, 500)
        log.artifact("probe", "probe.0.npz")
        log.message("half way", level="warning")
    assert history.poll()
    curve = history.curve("train", "loss")
    np.testing.assert_array_equal(curve.step, np.arange(500))
    np.testing.assert_allclose(curve.value, 1 / (1 + np.arange(500)))
    assert np.isnan(history.curve("train", "kl").value).all()
    assert history.latest("loss") == 1 / 500
    assert history.progress["done"] == 500
    assert [a["path"] for a in history.artifacts_of("probe")] == ["probe.0.npz"]
    assert history.messages[0]["level"] == "warning"
    assert history.end["status"] == "succeeded"
    assert not history.poll()


def test_a_line_still_being_written_waits_and_a_damaged_one_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / EVENTS
    line = json.dumps({"t": 1.0, "type": "metric", "stage": "s", "step": 1, "epoch": 0.5, "values": {"loss": 2.0}})
    path.write_text(line[:30])
    history = History(tmp_path)
    assert not history.poll()
    with path.open("a") as file:
        file.write(line[30:] + "\n{damaged\n" + '{"type": "metric", "stage": "s"}\n' + line + "\n")
    assert history.poll()
    np.testing.assert_array_equal(history.curve("s", "loss").value, [2.0, 2.0])


def test_a_replaced_file_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / EVENTS
    event = {"t": 1.0, "type": "metric", "stage": "s", "step": 1, "epoch": 0.5, "values": {"loss": 2.0}}
    path.write_text((json.dumps(event) + "\n") * 5)
    history = History(tmp_path)
    history.poll()
    path.write_text(json.dumps({**event, "values": {"loss": 7.0}}) + "\n")
    history.poll()
    np.testing.assert_array_equal(history.curve("s", "loss").value, [7.0])


def test_the_watcher_misses_nothing_of_a_fast_job(tmp_path: Path) -> None:
    watcher = Watcher(0.01)
    history = History(tmp_path)
    watcher.add(history)
    with JobLog(tmp_path, ["x"]) as log:
        for step in range(3000):
            log.metric("train", step, step / 1000, loss=float(step))
    end = time.monotonic() + 60
    while history.end is None and time.monotonic() < end:
        time.sleep(0.02)
    watcher.stop()
    np.testing.assert_array_equal(history.curve("train", "loss").value, np.arange(3000))


def test_smoothing_and_thinning_keep_what_matters() -> None:
    values = np.array([1.0, 3.0, np.nan, 5.0])
    np.testing.assert_allclose(smooth(values, 2), [1.0, 2.0, 3.0, 5.0])
    x = np.arange(100_000.0)
    y = np.zeros(100_000)
    y[77_777] = 9.0
    tx, ty = thin(x, y, 1000)
    assert len(tx) == 2001 and ty.max() == 9.0 and abs(tx[np.argmax(ty)] - 77_777) <= 100
    assert tx[-1] == x[-1] and (np.diff(tx) >= 0).all()
    y[::2] = np.nan
    ax, ay = average(x, y + 1.0, 1000)
    assert len(ax) == 1000 and ax[-1] == x[-1]
    assert np.nansum(ay == 1.0) == 999 and ay.max() == pytest.approx(1 + 9 / 50)


def test_a_log_gives_any_line_while_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "run.out"
    path.write_text("one\ntwo\npart")
    log = LogFile(path)
    assert log.poll() and len(log) == 3
    assert log.lines(0, 10) == ["one", "two", "part"]
    with path.open("a") as file:
        file.write("ial\n10 %\r50 %\r100 %\n\x1b[31mred\x1b[0m\n")
    assert log.poll() and len(log) == 5
    assert log.lines(2, 3) == ["partial", "100 %", "red"]
    path.write_text("new\n")
    assert log.poll() and log.lines(0, 5) == ["new"]


def test_a_log_of_a_hundred_megabytes_is_indexed_and_searched(tmp_path: Path) -> None:
    path = tmp_path / "run.out"
    block = b"".join(b"epoch %07d loss 0.123456789 and more words to make it long enough\n" % n for n in range(10_000))
    with path.open("wb") as file:
        for _ in range(150):
            file.write(block)
        file.write(b"the Needle\n")
    log = LogFile(path)
    log.poll()
    assert log.size > 100_000_000 and len(log) == 1_500_001
    assert log.lines(1_499_999, 5) == [block.splitlines()[-1].decode(), "the Needle"]
    assert log.find("needle") == [1_500_000]
    assert len(log.find("epoch 0000042")) == 150
    assert log.find("absent") == []


def test_a_match_across_two_reads_is_found(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "run.out"
    path.write_bytes(b"aaaa needle bbbb\n" * 20)
    log = LogFile(path)
    log.poll()
    monkeypatch.setattr("gaussianem_gui.execution.logfile.CHUNK_BYTES", 7)
    assert log.find("NEEDLE") == list(range(20))
