"""GaussianEM's engine: heterogeneity in cryo-EM with 3D Gaussians.

The names in ``__all__`` are what notebooks and other programs need (guide: From Python). Each is loaded when it is
first asked for, so that a program which reads metadata alone never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [
    "InputError",
    "fourier_shell_correlation",
    "k_means",
    "load_ctf",
    "load_latents",
    "load_model",
    "load_poses",
    "principal_components",
    "project",
    "read_map",
    "read_particles",
    "voxelize",
    "write_map",
]

if TYPE_CHECKING:
    from gaussianem_core.analysis.latent_space import k_means, principal_components
    from gaussianem_core.errors import InputError
    from gaussianem_core.imaging.ctf import load_ctf
    from gaussianem_core.imaging.fourier import fourier_shell_correlation
    from gaussianem_core.imaging.pose import load_poses
    from gaussianem_core.imaging.projection import project
    from gaussianem_core.imaging.voxelization import voxelize
    from gaussianem_core.io.latents import load_latents
    from gaussianem_core.io.mrc import read_map, write_map
    from gaussianem_core.io.particle_table import read_particles
    from gaussianem_core.model.trained_model import load_model
else:
    _OWNERS = {
        "analysis.latent_space": ("k_means", "principal_components"),
        "errors": ("InputError",),
        "imaging.ctf": ("load_ctf",),
        "imaging.fourier": ("fourier_shell_correlation",),
        "imaging.pose": ("load_poses",),
        "imaging.projection": ("project",),
        "imaging.voxelization": ("voxelize",),
        "io.latents": ("load_latents",),
        "io.mrc": ("read_map", "write_map"),
        "io.particle_table": ("read_particles",),
        "model.trained_model": ("load_model",),
    }

    def __getattr__(name: str) -> object:
        """A public name, from the module that owns it (PEP 562)."""
        for module, names in _OWNERS.items():
            if name in names:
                value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
                return value
        raise AttributeError(f"module {__name__} has no attribute {name}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
