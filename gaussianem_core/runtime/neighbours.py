"""Trees that find the nearest points, safe where the processor has been told to treat denormal numbers as zero."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import scipy


def neighbour_tree(points: npt.ArrayLike, *, balanced: bool = True) -> scipy.spatial.cKDTree:  # (N, dims)
    """The k-d tree of ``points``.

    ``balanced`` False builds faster, for many points that are queried rarely.
    """
    with denormals_kept():
        return scipy.spatial.cKDTree(points, balanced_tree=balanced, compact_nodes=balanced)


@contextlib.contextmanager
def denormals_kept() -> Iterator[None]:
    """Inside the block denormal numbers are not flushed to zero, also where ``choose_device`` set that.

    SciPy's tree moves a split that leaves one side empty to the next larger number. From 0 that is a denormal: where
    the processor flushes it to 0 the split never moves, and the process crashes.
    """
    torch = sys.modules.get("torch")  # who switched it has loaded it; the application does without
    if torch is None or np.nextafter(0.0, 1.0) != 0.0:
        yield
        return
    torch.set_flush_denormal(False)
    try:
        yield
    finally:
        torch.set_flush_denormal(True)
