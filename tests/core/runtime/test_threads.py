"""The number of CPU threads that was asked for holds, whatever libraries start threads of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ASK = """
import sys
import numba
import torch
from gaussianem_core.imaging.projection import project
from gaussianem_core.imaging.voxelization import voxelize

threads = int(sys.argv[2])
if sys.argv[1] == "set":
    torch.set_num_threads(threads)
positions, ones = torch.zeros(1, 5, 3), torch.ones(1, 5)
if sys.argv[3] == "project":
    made = project(positions, ones, 0.1 * ones, torch.eye(3)[None], torch.zeros(1, 2), 8, backend="cpu")
else:
    made = voxelize(positions, ones, 0.1 * ones, 8, backend="cpu")
assert made.any()
assert torch.get_num_threads() == threads, (torch.get_num_threads(), threads)
assert numba.get_num_threads() == threads, (numba.get_num_threads(), threads)
"""


@pytest.mark.parametrize("kernel", ["project", "voxelize"])
@pytest.mark.parametrize("way", ["set", "environment"])
def test_kernels_leave_the_number_of_threads_as_it_is(kernel: str, way: str) -> None:
    """Numba starts three threads here, as on a machine of three cores, and would give OpenMP as many."""
    environment = {**os.environ, "NUMBA_NUM_THREADS": "3", "OMP_NUM_THREADS": "1" if way == "environment" else "2"}
    done = subprocess.run(
        [sys.executable, "-c", ASK, way, "1", kernel], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
