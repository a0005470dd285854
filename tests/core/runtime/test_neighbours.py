"""Nearest neighbours where denormal numbers count as zero: a process of its own, which a fault would end."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from gaussianem_core.runtime.neighbours import neighbour_tree

ASK = """
import numpy as np
from gaussianem_core.analysis.latent_space import nearest_particles, neighbour_distance
from gaussianem_core.runtime.device import choose_device
choose_device("cpu")
assert np.nextafter(0.0, 1.0) == 0.0, "denormals are to be flushed here"
z = np.zeros((120, 3), np.float32)
z[:, 0] = np.random.default_rng(0).normal(size=120)
z[:12, 1] = 5.0
print(*nearest_particles(z, z[::7]), "|", *neighbour_distance(z, z[:5], 2))
assert np.nextafter(0.0, 1.0) == 0.0, "and still are"
"""


def test_a_dimension_of_zeros_is_no_end_of_the_program() -> None:
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or f"ended by signal {-done.returncode}"
    nearest, _, distances = done.stdout.partition("|")
    assert [int(word) for word in nearest.split()] == list(range(0, 120, 7))
    z = np.zeros((120, 3), np.float32)
    z[:, 0] = np.random.default_rng(0).normal(size=120)
    z[:12, 1] = 5.0
    expected = np.sort(cdist(z[:5].astype(float), z.astype(float)), axis=1)[:, 1]
    np.testing.assert_allclose([float(word) for word in distances.split()], expected, rtol=1e-5)


@pytest.mark.parametrize("balanced", [True, False])
def test_the_nearest_are_those_of_all_distances(balanced: bool) -> None:
    generator = np.random.default_rng(1)
    points, places = generator.normal(size=(300, 4)), generator.normal(size=(20, 4))
    found = neighbour_tree(points, balanced=balanced).query(places)[1]
    np.testing.assert_array_equal(found, cdist(places, points).argmin(axis=1))
