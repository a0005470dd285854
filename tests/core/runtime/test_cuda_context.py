"""The CUDA context that is made while libraries load."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from gaussianem_core.runtime.cuda_context import begin_context

STATE = """
import ctypes, sys
from gaussianem_core.runtime.cuda_context import begin_context
begin_context(0).join()
flags, active = ctypes.c_uint(), ctypes.c_int()
assert ctypes.CDLL("libcuda.so.1").cuDevicePrimaryCtxGetState(0, ctypes.byref(flags), ctypes.byref(active)) == 0
print(active.value, "torch" in sys.modules)
import torch
print(float(torch.arange(5.0, device="cuda").sum()))
"""


def test_a_gpu_that_is_absent_stops_nothing() -> None:
    thread = begin_context(999)
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_context_is_there_before_torch_which_takes_it_over() -> None:
    done = subprocess.run([sys.executable, "-c", STATE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False", "10.0"]
