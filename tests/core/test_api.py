"""The public names for notebooks: the guide's page runs as it stands, and names load what they need alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_data import preprocess, simulate

import gaussianem_core
from gaussianem_core.cli import main
from gaussianem_core.io.image_stack import ImageStack

PAGE = Path(__file__).parents[2] / "resources" / "guide" / "notebooks.md"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared data in ``heterogeneity`` and a short training of them in ``heterogeneity/run1``."""
    folder = tmp_path_factory.mktemp("notebook")
    simulate(folder / "sim")
    prepared = folder / "heterogeneity"
    assert preprocess(folder / "sim", prepared) == 0
    words = ["train", "-s", str(prepared), "--output", "run1", "--device", "cpu", "--epoch", "6", "--batch", "20"]
    assert main(words) == 0
    return folder


def test_the_page_for_notebooks_runs(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 5
    written = gaussianem_core.read_map("class_1.mrc")
    assert written.pixel_size_angstrom == pytest.approx(4.0)
    # Voxels of the model's Gaussians alone: the written class has the consensus map's detail beside them.
    model, density = names["model"], names["density"]
    assert isinstance(model, gaussianem_core.model.trained_model.TrainedModel) and isinstance(density, torch.Tensor)
    first = gaussianem_core.read_map("class_0.mrc").values
    detail = model.detail_in(32)
    assert detail is not None
    np.testing.assert_allclose(first, (density + detail).numpy(), atol=1e-4)


def test_images_of_a_model_agree_with_the_particles(trained: Path) -> None:
    """In its pose as the training left it, with its own CTF, an image resembles its particle more than any other."""
    prepared = trained / "heterogeneity"
    model = gaussianem_core.load_model(prepared / "cfg.json", prepared / "run1" / "weights.5.pkl", device="cpu")
    z = gaussianem_core.load_latents(prepared / "run1" / "weights.5.output.pkl")["z_mu"]
    posed = gaussianem_core.read_particles(prepared / "run1" / "particles.star", find_stacks=False)
    rotations, shifts = posed.rotations, posed.shifts_angstrom / model.pixel_size(32)
    dark = model.project(z, rotations, shifts, gaussianem_core.load_ctf(prepared / "ctf.npy"))
    particles = ImageStack.from_file(prepared / "img_stack.mrcs").read()
    assert model.configuration.invert_contrast
    both = np.corrcoef(-dark.numpy().reshape(len(z), -1), particles.reshape(len(z), -1))
    best = both[: len(z), len(z) :].argmax(axis=1)
    assert (best == np.arange(len(z))).mean() > 0.9
    # Without a CTF the sum of an image is the mass of the Gaussians: a projection loses none.
    gaussians = model.deform(z)
    mass = (gaussians.densities * (2 * np.pi) ** 1.5 * model.gaussians.sigmas**3).sum(dim=1) * (32 / 2) ** 2
    bare = model.project(z, rotations, np.zeros_like(shifts)).sum(dim=(1, 2))
    torch.testing.assert_close(bare, mass.to(bare), rtol=1e-2, atol=0.0)  # tails beyond the box and pixel sampling


def test_every_public_name_is_there_and_no_other() -> None:
    for name in gaussianem_core.__all__:
        assert getattr(gaussianem_core, name).__doc__, name
        assert name in dir(gaussianem_core)
    with pytest.raises(AttributeError, match="no attribute litres"):
        gaussianem_core.litres  # noqa: B018


def test_reading_particles_loads_no_torch() -> None:
    script = (
        "import sys, gaussianem_core as g; g.read_particles, g.load_latents, g.read_map; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
