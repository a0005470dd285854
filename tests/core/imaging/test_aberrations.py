"""Aberrations of both programs as one list of coefficients: the polynomials written out against the formulas."""

from __future__ import annotations

import numpy as np
from optics_simulator import beam_tilt, even_zernike, odd_zernike, wavelength

from gaussianem_core.imaging.aberrations import beam_tilt_zernike, cryosparc_even_zernike, cryosparc_odd_zernike

KX, KY = np.random.default_rng(0).uniform(-0.4, 0.4, (2, 50))
K, THETA = np.hypot(KX, KY), np.arctan2(KY, KX)


def test_beam_tilt_is_relions() -> None:
    """tilt_helper.cpp, insertTilt: -2 pi Cs lambda^2 k^2 (k . tilt), for each voltage and Cs."""
    tilt, cs, kilovolts = np.array([[0.7, -0.4], [0.1, 0.3]]), np.array([2.7, 1.4]), np.array([300.0, 200.0])
    found = beam_tilt_zernike(tilt, cs, kilovolts)
    for i in range(2):
        phase = odd_zernike(dict(enumerate(found[i])))(KX, KY)
        np.testing.assert_allclose(phase, beam_tilt(*tilt[i], kilovolts[i], cs[i])(KX, KY), rtol=1e-5)


def test_cryosparcs_terms() -> None:
    shift, tilt, trefoil, tetra = [0.3, -0.2], [1500.0, -900.0], [400.0, 250.0], [90.0, -60.0, 200.0, 120.0]
    lam = wavelength(300.0)
    volts = np.array([300.0])
    odd = cryosparc_odd_zernike(*(np.array([v]) for v in (shift, tilt, trefoil)), volts)[0]
    wanted = 2 * np.pi * (tilt[0] * np.cos(THETA) + tilt[1] * np.sin(THETA))
    wanted += 2 / 3 * np.pi * (trefoil[0] * np.cos(3 * THETA) + trefoil[1] * np.sin(3 * THETA))
    wanted = lam**2 * K**3 * wanted - 2 * np.pi * (shift[0] * KX + shift[1] * KY)
    np.testing.assert_allclose(odd_zernike(dict(enumerate(odd)))(KX, KY), wanted, rtol=1e-5, atol=1e-9)
    even = cryosparc_even_zernike(np.array([tetra]), volts)[0]
    wanted = 2 * np.pi * (tetra[0] * np.cos(2 * THETA) + tetra[1] * np.sin(2 * THETA))
    wanted += np.pi / 2 * (tetra[2] * np.cos(4 * THETA) + tetra[3] * np.sin(4 * THETA))
    np.testing.assert_allclose(
        even_zernike(dict(enumerate(even)))(KX, KY), lam**3 * K**4 * wanted, rtol=1e-5, atol=1e-9
    )
