"""The electrons' wavelength, and Zernike polynomials of spatial frequencies in RELION's order.

The functions take numbers, NumPy arrays or torch tensors alike.
"""

from __future__ import annotations

from math import factorial
from typing import Any


def wavelength_angstrom(voltage_kv: Any) -> Any:
    """Relativistic electron wavelength in Angstrom at a voltage in kV (Reimer and Kohl, Transmission Electron
    Microscopy, eq. 2.5)."""
    volts = voltage_kv * 1e3
    return 12.2643247 / (volts * (1 + 0.978466e-6 * volts)) ** 0.5


def zernike_terms(count: int, odd: bool) -> list[tuple[int, int]]:
    """Degree n and order m of the first ``count`` odd or even coefficients, in RELION's order; m < 0 is the sine."""
    terms: list[tuple[int, int]] = []
    n = 1 if odd else 0
    while len(terms) < count:
        terms += [(n, m) for m in range(-n, n + 1, 2)]
        n += 2
    return terms[:count]


def zernike_sum(
    coefficients: Any, kx: Any, ky: Any, odd: bool
) -> Any:  # (..., T), (..., W), (..., H, 1) -> (..., H, W)
    """Sum of odd or even Zernike polynomials, with ``coefficients`` in rad A^n, at frequencies kx, ky (1/A): radians.

    Plain arithmetic, so that arrays and tensors will do: rho^|m| cos, sin m theta are the real and imaginary part of
    (kx + i ky)^|m|, and what is left of the radial polynomial is one in rho^2 (Born and Wolf, Principles of Optics,
    sec. 9.2).
    """
    k2 = kx * kx + ky * ky
    total = 0.0 * k2
    for i, (n, m) in enumerate(zernike_terms(coefficients.shape[-1], odd)):
        cosine, sine = 1.0 + 0.0 * k2, 0.0 * k2
        for _ in range(abs(m)):
            cosine, sine = cosine * kx - sine * ky, cosine * ky + sine * kx
        radial = 0.0 * k2
        for weight in _radial(n, abs(m)):
            radial = radial * k2 + weight
        total = total + coefficients[..., i, None, None] * radial * (cosine if m >= 0 else sine)
    return total


def _radial(n: int, m: int) -> list[float]:
    """Coefficients of R(n, m) / rho^m as a polynomial in rho^2, highest power first."""
    return [
        (-1) ** k * factorial(n - k) / (factorial(k) * factorial((n + m) // 2 - k) * factorial((n - m) // 2 - k))
        for k in range((n - m) // 2 + 1)
    ]
