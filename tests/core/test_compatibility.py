"""Published models give the published numbers; hostile files are refused unread."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussianem_core.errors import InputError
from gaussianem_core.io.checkpoint import load_checkpoint, save_checkpoint
from gaussianem_core.io.latents import load_latents, save_latents
from gaussianem_core.model.configuration import load_configuration, write_configuration
from gaussianem_core.model.gaussians import load_gaussians, write_gaussians
from gaussianem_core.model.network import build_network, load_network


def check_model(folder: Path) -> None:
    """Encode and decode must give ``expected.npz`` to 1e-5 (float32 sums in another order)."""
    configuration = load_configuration(folder / "cfg.json")
    gaussians = load_gaussians(folder / "point_cloud.ply", configuration.scale_min, configuration.scale_max)
    network = load_network(configuration, load_checkpoint(folder / "weights.0.pkl")["model_state_dict"])
    expected = np.load(folder / "expected.npz")
    with torch.no_grad():
        mean, log_variance = network.encoder(torch.from_numpy(expected["images"]))
        embedding = network.embed(gaussians)
        density, position = network.decode(torch.from_numpy(expected["z"]), embedding)
    np.testing.assert_allclose(mean, expected["mu"], atol=1e-5)
    np.testing.assert_allclose(log_variance, expected["logvar"], atol=1e-5)
    if "gaussian_embedding" in expected:
        np.testing.assert_allclose(embedding, expected["gaussian_embedding"][0], atol=1e-5)
    np.testing.assert_allclose(density, expected["d_density"][..., 0], atol=1e-5)
    np.testing.assert_allclose(position, expected["d_xyz"], atol=1e-5)
    assert load_latents(folder / "weights.0.output.pkl")["z_mu"].shape[1] == configuration.network["zdim"]


def test_published_model(shared_data: Path) -> None:
    check_model(shared_data / "legacy_model")


def test_own_fixture(data: Path) -> None:
    check_model(data / "published_model")


def test_round_trips(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "igg1d"
    configuration = load_configuration(source / "cfg.json")
    gaussians = load_gaussians(source / "point_cloud.ply", configuration.scale_min, configuration.scale_max)
    assert len(gaussians) == 5965 and configuration.box == 128 and configuration.pixel_size_angstrom == 3.0
    # sigma is 0.3 to 0.6 pixel: scale_min 0.00234375 is 0.3 / 128
    sigmas_px = gaussians.sigmas * configuration.box / 2
    assert 0.3 <= sigmas_px.min() and sigmas_px.max() <= 0.6
    write_configuration(configuration, tmp_path / "cfg.json")
    write_gaussians(gaussians, tmp_path / "point_cloud.ply")
    again = load_configuration(tmp_path / "cfg.json")
    assert again.extra.items() >= configuration.extra.items()
    assert (again.scale_min, again.std, again.network) == (configuration.scale_min, configuration.std, again.network)
    copy = load_gaussians(tmp_path / "point_cloud.ply", again.scale_min, again.scale_max)
    assert torch.equal(copy.features, gaussians.features)


def test_latents_round_trip(tmp_path: Path) -> None:
    z = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    save_latents(tmp_path / "z.pkl", z, z - 1)
    content = load_latents(tmp_path / "z.pkl")
    np.testing.assert_array_equal(content["z_mu"], z)
    np.testing.assert_array_equal(content["z_logvar"], z - 1)
    assert content["ind"].shape == (7, 1)


class _Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("load", [load_latents, load_checkpoint])
def test_code_in_a_file_is_never_run(tmp_path: Path, load) -> None:  # type: ignore[no-untyped-def]
    file, made = tmp_path / "hostile.pkl", tmp_path / "made"
    hostile = {"z_mu": _Hostile(made), "model_state_dict": _Hostile(made)}
    for protocol in range(6):
        file.write_bytes(pickle.dumps(hostile, protocol=protocol))
        with pytest.raises(InputError, match="was not read"):
            load(file)
        torch.save(hostile, file, pickle_protocol=protocol)
        with pytest.raises(InputError, match="was not read"):
            load(file)
    if load is load_checkpoint:
        torch.save(hostile, file)
    else:
        file.write_bytes(pickle.dumps(hostile, protocol=4))
    with pytest.raises(InputError, match=r"wants to run \w+.mkdir\)"):
        load(file)
    assert not made.exists()


def test_checkpoint_of_another_configuration(tmp_path: Path, data: Path) -> None:
    configuration = load_configuration(data / "published_model" / "cfg.json")
    network = build_network(configuration)
    state = network.state_dict()
    state["d_xyz.2.weight"] = torch.zeros(3, 5)
    save_checkpoint({"epoch": 0, "model_state_dict": state}, tmp_path / "w.pkl")
    with pytest.raises(InputError, match=r"d_xyz\.2\.weight must have shape"):
        load_network(configuration, load_checkpoint(tmp_path / "w.pkl")["model_state_dict"])
