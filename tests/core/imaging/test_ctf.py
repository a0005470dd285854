"""The CTF against torch-ctf, RELION's definition and its own file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch_ctf

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.ctf import apply_ctf, ctf, load_ctf, wavelength_angstrom

BOX = 64
#        box  A/px  U      V      angle kV   Cs   w    phase
TABLE = [
    [BOX, 1.5, 15000, 12000, 30, 300, 2.7, 0.1, 0],
    [BOX, 1.0, 8000, 9000, 100, 200, 2.0, 0.07, 0],
    [BOX, 3.0, 25000, 25000, 0, 300, 0.001, 0.1, 90],
    [BOX, 2.0, 500, 300, -45, 120, 1.4, 0.2, 30],
]


@pytest.mark.parametrize("row", TABLE)
def test_equals_torch_ctf(row: list[float]) -> None:
    _, pixel, df_u, df_v, angle, voltage, cs, contrast, phase = map(float, row)
    theirs = torch_ctf.calculate_ctf_2d(
        (df_u + df_v) / 2e4,
        (df_u - df_v) / 2e4 if df_u >= df_v else (df_v - df_u) / 2e4,
        angle if df_u >= df_v else angle + 90,
        voltage,
        cs,
        contrast,
        phase,
        pixel,
        (BOX, BOX),
        True,
        False,
    )
    # The sign is ours (negative at low resolution); 2e-3 is float32's error in a phase of some hundred radians.
    torch.testing.assert_close(ctf(torch.tensor(row, dtype=torch.float32), BOX), -theirs, atol=2e-3, rtol=0)


def test_equals_relion() -> None:
    # RELION (ctf.h): gamma = K1 (defocus) k^2 + K2 k^4 - K5 - K3, CTF = -sin(gamma), white protein; in float64.
    for row in TABLE:
        _, pixel, df_u, df_v, angle, voltage, cs, contrast, phase = row
        volts = voltage * 1e3
        lam = 12.2643247 / np.sqrt(volts * (1 + volts * 0.978466e-6))
        k1, k2, k3, k5 = (
            np.pi / 2 * 2 * lam,
            np.pi / 2 * cs * 1e7 * lam**3,
            np.arctan(contrast / np.sqrt(1 - contrast**2)),
            np.deg2rad(phase),
        )
        kx, ky = np.meshgrid(np.fft.rfftfreq(BOX) / pixel, np.fft.fftfreq(BOX) / pixel)
        q, t = np.array([[np.cos(a := np.deg2rad(angle)), np.sin(a)], [-np.sin(a), np.cos(a)]]), (-df_u, -df_v)
        axx = q[0, 0] ** 2 * t[0] + q[1, 0] ** 2 * t[1]
        axy = q[0, 0] * q[0, 1] * t[0] + q[1, 0] * q[1, 1] * t[1]
        ayy = q[0, 1] ** 2 * t[0] + q[1, 1] ** 2 * t[1]
        u2 = kx**2 + ky**2
        gamma = k1 * (axx * kx**2 + 2 * axy * kx * ky + ayy * ky**2) + k2 * u2**2 - k5 - k3
        np.testing.assert_allclose(ctf(torch.tensor(row), BOX), np.sin(gamma), atol=2e-3)
        # NumPy's float64 stays float64: what is left is rounding in that phase.
        np.testing.assert_allclose(ctf(np.array(row, np.float64), BOX), np.sin(gamma), atol=1e-10)


def test_low_resolution_sign_and_value() -> None:
    values = ctf(torch.tensor(TABLE, dtype=torch.float32), BOX)
    zero = values[:, 0, 0]
    assert (zero < 0).all()
    expected = [-np.sin(np.arcsin(row[7]) + np.deg2rad(row[8])) for row in TABLE]
    np.testing.assert_allclose(zero, expected, atol=1e-6)


def test_nan_phase_is_zero() -> None:
    row = torch.tensor(TABLE[0], dtype=torch.float32)
    missing = row.clone()
    missing[8] = torch.nan
    assert torch.equal(ctf(row, BOX), ctf(missing, BOX))


def test_flat_without_ctf() -> None:
    # defocus 0, Cs 0, amplitude contrast 1: what simulate writes for "no CTF"
    row = torch.tensor([BOX, 1.0, 0, 0, 0, 300, 0, 1, 0])
    torch.testing.assert_close(ctf(row, BOX), torch.full((BOX, BOX // 2 + 1), -1.0))


def test_wavelength() -> None:
    # Williams and Carter, Transmission Electron Microscopy, table 1.2: 3.70, 2.51 and 1.97 pm
    found = wavelength_angstrom(torch.tensor([100.0, 200.0, 300.0]))
    np.testing.assert_allclose(found, [0.0370, 0.0251, 0.0197], atol=5e-5)


def test_applied_about_the_centre() -> None:
    # A CTF is real: the image of a point at the centre stays symmetric about the centre, D // 2.
    image = torch.zeros(BOX, BOX)
    image[BOX // 2, BOX // 2] = 1
    out = apply_ctf(image, ctf(torch.tensor(TABLE[0]), BOX))
    torch.testing.assert_close(out[1:, 1:], out[1:, 1:].flip(0, 1), atol=1e-6, rtol=0)
    assert out.sum() == pytest.approx(float(ctf(torch.tensor(TABLE[0]), BOX)[0, 0]), abs=1e-4)


def test_file(tmp_path: Path) -> None:
    values = np.array(TABLE, dtype=np.float32)
    values[1, 8] = np.nan
    np.save(tmp_path / "ctf.npy", values)
    loaded = load_ctf(tmp_path / "ctf.npy")
    assert loaded[1, 8] == 0 and loaded.shape == (4, 9)
    values[2, 2] = np.inf
    np.save(tmp_path / "ctf.npy", values)
    with pytest.raises(InputError, match=r"column defocus U.*inf in row 3"):
        load_ctf(tmp_path / "ctf.npy")
    np.save(tmp_path / "ctf.npy", values[:, :8])
    with pytest.raises(InputError, match=r"shape \(N, 9\)"):
        load_ctf(tmp_path / "ctf.npy")


def test_arrays_and_tensors_alike() -> None:
    images = np.random.default_rng(0).normal(size=(4, BOX, BOX)).astype(np.float32)
    parameters = np.array(TABLE, np.float32)
    found = apply_ctf(images, ctf(parameters, BOX))
    assert isinstance(found, np.ndarray)
    expected = apply_ctf(torch.from_numpy(images), ctf(torch.from_numpy(parameters), BOX))
    np.testing.assert_allclose(found, expected.numpy(), atol=5e-3)  # both in float32, see above
