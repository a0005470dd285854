"""A small trained model with a known answer: the network's weights are set so that latents move Gaussians at will."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from gaussianem_core.imaging.pose import angles_from_rotations, random_rotations
from gaussianem_core.io.checkpoint import save_checkpoint
from gaussianem_core.io.latents import save_latents
from gaussianem_core.io.particle_rows import write_star
from gaussianem_core.model.configuration import Configuration, write_configuration
from gaussianem_core.model.gaussians import Gaussians, inverse_softplus, write_gaussians
from gaussianem_core.model.network import build_network
from gaussianem_core.model.trained_model import TrainedModel

BOX, PIXEL = 24, 4.0
NETWORK = {
    "gaussian_embedding_dim": 8,
    "qlayers": 1,
    "qdim": 16,
    "zdim": 3,
    "gaussian_kdim": 16,
    "gaussian_klayers": 1,
    "feature_dim": 16,
    "feature_kdim": 16,
    "feature_klayers": 1,
}
CONFIGURATION = Configuration(BOX, PIXEL, 1.0 / BOX, 4.0 / BOX, 1.0, True, True, NETWORK, {})


def make_gaussians(count: int = 60) -> Gaussians:
    """Scattered Gaussians, one to 1.3 pixels wide."""
    generator = torch.Generator().manual_seed(0)
    positions = torch.rand(count, 3, generator=generator) - 0.5
    raw_density = inverse_softplus(torch.rand(count, generator=generator) + 1)
    return Gaussians(positions, raw_density, torch.zeros(count), CONFIGURATION.scale_min, CONFIGURATION.scale_max)


def write_model(
    folder: Path,
    z: np.ndarray,
    *,
    motion: float = 0.2,
    density: bool = False,
    store_gaussians: bool = False,
    **latents: np.ndarray,
) -> Path:
    """cfg.json, point_cloud.ply, weights.0.pkl and weights.0.output.pkl: random weights, output scaled to ``motion``.

    Without ``density`` latents change positions alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    network, gaussians = build_network(CONFIGURATION), make_gaussians()
    with torch.no_grad():
        if not density:
            network.d_density[-1].weight.zero_()
            network.d_density[-1].bias.zero_()
        _, moved = network.decode(torch.as_tensor(z, dtype=torch.float32), network.embed(gaussians))
        network.d_xyz[-1].bias -= moved.mean(dim=(0, 1))
        scale = motion / (moved - moved.mean(dim=(0, 1))).norm(dim=-1).mean()
        network.d_xyz[-1].weight *= scale
        network.d_xyz[-1].bias *= scale
    write_configuration(CONFIGURATION, folder / "cfg.json")
    write_gaussians(gaussians, folder / "point_cloud.ply")
    content = {"epoch": 0, "model_state_dict": network.state_dict()}
    if store_gaussians:
        content["gaussians"] = {name: getattr(gaussians, name) for name in ("positions", "raw_density", "raw_scale")}
    save_checkpoint(content, folder / "weights.0.pkl")
    save_latents(folder / "weights.0.output.pkl", z, np.full_like(z, -3.0), **latents)
    return folder


def write_particles(
    folder: Path,
    model: TrainedModel,
    z: np.ndarray,
    noise: float,
    generator: np.random.Generator,
    dose: tuple[float, ...] = (),
) -> None:
    """particles.mrcs and particles_in.star: the images that the model makes of particles at the latents ``z`` (P, 3),
    in white noise of ``noise`` times their own standard deviation.

    With ``dose`` (T,), in e/A^2, each particle is a tilt series of so many images, from -60 to 60 degrees about y, its
    rows are one rlnGroupName, and its images have lost what the dose before them took.
    """
    tilts = max(len(dose), 1)
    rotations = random_rotations(len(z), generator)
    if dose:
        stage = Rotation.from_euler("y", np.linspace(-60, 60, tilts)[:, None], degrees=True).as_matrix()
        rotations = (stage @ rotations[:, None]).reshape(-1, 3, 3)
    count = len(rotations)
    shifts = generator.normal(0, 1, (count, 2))
    defocus = generator.uniform(6000, 16000, count)
    parameters = np.zeros((count, 15), np.float32)
    parameters[:, :9] = [BOX, PIXEL, 0, 0, 0, 300, 2.7, 0.1, 0]
    parameters[:, 2:4], parameters[:, 10] = defocus[:, None], 1
    if dose:
        parameters[:, 13] = np.tile(dose, len(z))
    images = -model.project(np.repeat(z, tilts, axis=0), rotations, shifts, parameters).numpy()
    images += generator.normal(0, noise * images.std(), images.shape)
    with mrcfile.new(folder / "particles.mrcs") as file:
        file.set_data(images.astype(np.float32))
        file.voxel_size = PIXEL
        file.set_image_stack()
    angles = angles_from_rotations(rotations)
    optics = {
        "rlnOpticsGroup": [1],
        "rlnVoltage": [300.0],
        "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1],
        "rlnImagePixelSize": [PIXEL],
        "rlnImageSize": [BOX],
        "rlnImageDimensionality": [2],
    }
    particles = {
        "rlnImageName": [f"{i + 1:06d}@particles.mrcs" for i in range(count)],
        **{name: angles[:, i] for i, name in enumerate(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"))},
        "rlnOriginXAngst": shifts[:, 0] * PIXEL,
        "rlnOriginYAngst": shifts[:, 1] * PIXEL,
        "rlnDefocusU": defocus,
        "rlnDefocusV": defocus,
        "rlnDefocusAngle": np.zeros(count),
        "rlnOpticsGroup": np.ones(count, int),
        "rlnRandomSubset": 1 + np.arange(count) // tilts % 2,
    }
    if dose:
        particles["rlnMicrographPreExposure"] = np.tile(dose, len(z))
        particles["rlnGroupName"] = [f"particle_{i // tilts}" for i in range(count)]
    write_star(folder / "particles_in.star", {"optics": optics, "particles": particles})
