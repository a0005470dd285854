"""Point groups: their axes where RELION has them (symmetries.cpp), and mates that see one image."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.pose import rotations_from_angles
from gaussianem_core.imaging.symmetry import symmetry_mates, symmetry_operators
from gaussianem_core.io.mrc import read_map

# order, and axes (fold, direction) as RELION lists them
RELION: dict[str, tuple[int, list[tuple[int, tuple[float, float, float]]]]] = {
    "C1": (1, []),
    "C5": (5, [(5, (0, 0, 1))]),
    "D2": (4, [(2, (0, 0, 1)), (2, (1, 0, 0))]),
    "D7": (14, [(7, (0, 0, 1)), (2, (1, 0, 0))]),
    "T": (12, [(3, (0, 0, 1)), (2, (0, 0.816496, 0.577350))]),
    "O": (24, [(3, (0.5773502, 0.5773502, 0.5773502)), (4, (0, 0, 1))]),
    "I": (60, [(2, (0, 0, 1)), (5, (0.525731114, 0, 0.850650807)), (3, (0, 0.356822076, 0.934172364))]),
    "I1": (60, [(2, (1, 0, 0)), (5, (0.8506508070, 0, -0.5257311143)), (3, (0.9341723640, 0.3568220765, 0))]),
    "I3": (60, [(2, (-0.5257311143, 0, 0.8506508070)), (5, (0, 0, 1))]),
    "I4": (60, [(2, (0.5257311143, 0, 0.8506508070)), (5, (0.8944271933, 0, 0.4472135910))]),
}


@pytest.mark.parametrize("name", RELION)
def test_groups_are_relions(name: str) -> None:
    order, axes = RELION[name]
    found = symmetry_operators(name.lower())
    assert len(found) == order
    np.testing.assert_allclose(found[0], np.eye(3))
    np.testing.assert_allclose(np.linalg.det(found), 1.0)
    for fold, axis in axes:
        turn = Rotation.from_rotvec(2 * np.pi / fold * np.asarray(axis) / np.linalg.norm(axis)).as_matrix()
        assert np.abs(found - turn).max(axis=(1, 2)).min() < 1e-5, (fold, axis)
    products = np.einsum("aij,bjk->abik", found, found).reshape(-1, 3, 3)
    assert np.abs(products[:, None] - found).max(axis=(2, 3)).min(axis=1).max() < 1e-6  # closed


@pytest.mark.parametrize("name", ["C3", "D2", "T", "O", "I"])
def test_mates_see_the_same_projection(name: str) -> None:
    operators = symmetry_operators(name)
    part = np.random.default_rng(0).normal(size=(5, 3))
    molecule = np.einsum("sij,nj->sni", operators, part).reshape(-1, 3)
    angles = np.array([[10.0, 40.0, -70.0], [170.0, 100.0, 20.0]])
    mates = symmetry_mates(rotations_from_angles(angles), operators)
    assert mates.shape == (2, len(operators), 3, 3)
    np.testing.assert_allclose(mates[:, 0], rotations_from_angles(angles))
    for each in mates:
        seen = np.einsum("sij,nj->sni", each, molecule)[..., :2].round(6) + 0.0
        first = {tuple(point) for point in seen[0]}
        assert all({tuple(point) for point in points} == first for points in seen)


def test_a_real_map_has_the_symmetry_that_relion_gave_it(shared_data: object) -> None:
    """Beta-galactosidase, refined with RELION in D2: turned by each operator the map is the same."""
    from scipy.ndimage import affine_transform

    values = read_map(shared_data / "betagal" / "betagal_map.mrc").values.astype(np.float64)  # type: ignore[operator]
    middle = np.full(3, values.shape[0] // 2)
    radius = np.linalg.norm(np.stack(np.indices(values.shape)) - middle[:, None, None, None], axis=0)
    inside = radius < values.shape[0] // 2 - 2

    def turned(operator: np.ndarray) -> float:
        m = operator[::-1, ::-1]  # of (z, y, x)
        other = affine_transform(values, m, middle - m @ middle, order=1)
        return float(np.corrcoef(values[inside], other[inside])[0, 1])

    same = [turned(operator) for operator in symmetry_operators("D2")[1:]]
    other = [turned(operator) for operator in symmetry_operators("C4")[1::2]]  # a quarter turn is none of D2
    assert min(same) > 0.9 > max(other) + 0.2, (same, other)


@pytest.mark.parametrize("name", ["", "C0", "D", "X3", "C1000", "I5", "c2; rm"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="--symmetry"):
        symmetry_operators(name)
