"""Text from files that others wrote is shown, and not obeyed, by a terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from gaussianem_core.cli import main
from gaussianem_core.errors import InputError, printable
from gaussianem_core.job.events import JobLog, parse_events, read_events
from gaussianem_core.job.terminal import Terminal

HOSTILE = "a\x1b]0;title\x07b\x9bc\u202ed\udcffe\x00\r"


def test_printable_keeps_words_and_writes_out_the_rest() -> None:
    assert printable("Å, 3 → 4\n\tµm “x” 😀") == "Å, 3 → 4\n\tµm “x” 😀"
    shown = printable(HOSTILE)
    assert shown.encode() and not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in shown) and "\u202e" not in shown
    assert r"\x1b" in shown and r"\x07" in shown


def test_an_error_repeats_no_control_characters() -> None:
    text = str(InputError("column", "must be a number", HOSTILE, "Repair it."))
    assert "\x1b" not in text and "\udcff" not in text and "a" in text
    assert len(str(InputError("a", "b", "x" * 10**6, "c"))) < 10_000


def test_messages_of_a_job_and_events_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with Terminal() as terminal, JobLog(tmp_path / "job", ["x"], echo=terminal.show) as log:
        log.message(f"file {HOSTILE}")
        log.artifact("plot", f"plots/{HOSTILE}", HOSTILE)
    for event in read_events(tmp_path / "job" / "events.jsonl")[0]:
        with Terminal() as terminal:
            terminal.show(event)
    assert not set("\x1b\x07\x9b\u202e\x00") & set(capsys.readouterr().out)


def test_a_star_column_with_escapes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "p.star").write_bytes(b"data_particles\nloop_\n_rlnImageName\n_\x1b[31mred\n_\x1b[31mred\n1@a 2 3\n")
    (tmp_path / "map.mrc").write_bytes(b"")
    words = ["--star_file", "p.star", "--consensus_map", "map.mrc", "--job_dir", str(tmp_path / "out")]
    assert main(["preprocess", "-s", str(tmp_path), *words, "--device", "cpu"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_lines_that_are_no_events_are_left_out() -> None:
    good = {"t": 1.0, "type": "progress", "stage": "train", "done": 1, "total": 2}
    lines = [
        json.dumps(good),
        "[" * 50_000,
        json.dumps({**good, "done": "1"}),
        json.dumps({**good, "total": float("nan")}),
        json.dumps({"type": "artifact", "kind": "map", "path": 3}),
        json.dumps({"type": "metric", "stage": "a", "step": 1, "epoch": 1, "values": [1]}),
        '{"type": "progress"}',
        "\x00",
        json.dumps(good),
    ]
    assert parse_events("\n".join(lines).encode() + b"\n") == [good, good]


def test_an_output_that_lacks_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of another encoding gets an escape in place of a character, not the end of the job."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    assert main(["--version"]) == 0
    stream.write("Å")
    stream.flush()
    assert stream.buffer.getvalue().endswith(b"\\xc5")  # type: ignore[attr-defined]
