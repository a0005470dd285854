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

way, kernel = sys.argv[1:]
if way == "set":
    torch.set_num_threads(1)
positions, ones = torch.zeros(1, 5, 3), torch.ones(1, 5)
if kernel == "project":
    made = project(positions, ones, 0.1 * ones, torch.eye(3)[None], torch.zeros(1, 2), 8, backend="cpu")
else:
    made = voxelize(positions, ones, 0.1 * ones, 8, backend="cpu")
assert made.any()
assert (torch.get_num_threads(), numba.get_num_threads()) == (1, 1), (torch.get_num_threads(), numba.get_num_threads())
"""


@pytest.mark.parametrize("kernel", ["project", "voxelize"])
@pytest.mark.parametrize("way", ["set", "environment"])
def test_kernels_leave_the_number_of_threads_as_it_is(kernel: str, way: str) -> None:
    """Numba starts three threads here, as on a machine of three cores, and would give OpenMP as many."""
    environment = {**os.environ, "NUMBA_NUM_THREADS": "3", "OMP_NUM_THREADS": "1" if way == "environment" else "2"}
    command = [sys.executable, "-c", ASK, way, kernel]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
