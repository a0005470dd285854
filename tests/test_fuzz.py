"""A short run of the fuzzer: every reader copes with some files that were changed at random."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_readers_cope_with_changed_files() -> None:
    """In a process of its own, which limits its memory. ``python tests/fuzz.py --inputs 60000`` is the long run."""
    program = Path(__file__).with_name("fuzz.py")
    command = [sys.executable, str(program), "--inputs", "1000", "--seed", "1", "--jobs", "1"]
    environment = {**os.environ, "PYTHONPATH": str(program.parent)}  # scripts' folders may be left out
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout
