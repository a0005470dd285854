"""A CUDA context that is made while torch is still being imported. No torch here."""

from __future__ import annotations

import ctypes
import threading


def begin_context(index: int) -> threading.Thread:
    """Start to make this process's context on GPU number ``index``, of those visible; torch takes it over.

    The driver needs a second or more for it, in which torch would hold Python's lock; called by ctypes it does not
    (CUDA driver API: cuInit, cuDevicePrimaryCtxRetain). Without driver or GPU nothing happens, and torch says so later.
    The thread is no daemon: a process that ends early must not leave while the driver is at work.
    """
    thread = threading.Thread(target=_make_context, args=(index,), name="cuda-context")
    thread.start()
    return thread


def _make_context(index: int) -> None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    device, context = ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), index) == 0:
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
