"""Training: recovers known states, resumes exactly, stops when asked, refuses what does not fit together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import reduce
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import small_data
import torch
from plyfile import PlyData
from small_data import hasten, preprocess, simulate

from gaussianem_core.cli import main
from gaussianem_core.errors import InputError
from gaussianem_core.imaging import fourier, likelihood
from gaussianem_core.imaging.fourier import fourier_shell_correlation, fsc_area
from gaussianem_core.io.checkpoint import load_checkpoint, save_checkpoint
from gaussianem_core.io.image_stack import ImageStack
from gaussianem_core.io.latents import load_latents
from gaussianem_core.io.mrc import read_map, write_map
from gaussianem_core.job.events import ABORT, ABORTED, SUCCESS, JobLog, read_events
from gaussianem_core.model.configuration import load_configuration
from gaussianem_core.model.gaussians import load_gaussians, load_mask
from gaussianem_core.model.network import load_network
from gaussianem_core.model.trained_model import load_model
from gaussianem_core.options import TrainOptions
from gaussianem_core.simulation.latent_scores import probe_accuracy
from gaussianem_core.training import latent_posterior, latent_refinement, regularisers, teaching, trainer
from gaussianem_core.training.trainer import Trainer, encoder_window

SMALL = [
    "--qdim",
    "32",
    "--qlayers",
    "1",
    "--zdim",
    "2",
    "--gaussian_kdim",
    "32",
    "--gaussian_klayers",
    "1",
    "--gaussian_embedding_dim",
    "8",
    "--feature_kdim",
    "32",
    "--feature_klayers",
    "1",
    "--feature_dim",
    "32",
]


@pytest.fixture(scope="session")
def two_states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data of a molecule whose arm is in one of two places: 300 images of 16 px."""
    folder = tmp_path_factory.mktemp("two_states")
    generator = np.random.default_rng(0)
    body = generator.normal(size=(120, 3)) * [9, 9, 9]
    arm = generator.normal(size=(40, 3)) * 4
    xyz = np.stack([np.concatenate([body, arm + [0, 0, side * 22]]) for side in (1, -1)]).astype(np.float32)
    np.savez(folder / "model.npz", xyz=xyz, weight=np.ones(160, np.float32))
    assert (
        main(
            [
                "simulate",
                "--model",
                str(folder / "model.npz"),
                "--particles",
                "300",
                "--box",
                "16",
                "--apix",
                "6",
                "--snr",
                "1",
                "--states",
                "endpoints",
                "--job_dir",
                str(folder / "sim"),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    assert (
        main(
            [
                "preprocess",
                "--source_dir",
                str(folder / "sim"),
                "--star_file",
                "particles.star",
                "--consensus_map",
                "consensus.mrc",
                "--job_dir",
                str(folder / "pre"),
                "--device",
                "cpu",
                *SMALL,
            ]
        )
        == 0
    )
    return folder


def run_train(folder: Path, name: str, *more: str) -> int:
    return main(
        [
            "train",
            "-s",
            str(folder / "pre"),
            "--job_dir",
            str(folder / name),
            "--device",
            "cpu",
            "--precision",
            "float32",
            "--batch",
            "20",
            *more,
        ]
    )


def test_finds_the_two_states(two_states: Path) -> None:
    assert run_train(two_states, "found", "--epoch", "60") == 0
    out = two_states / "found"
    z = load_latents(out / "weights.59.output.pkl")["z_mu"]
    state = np.load(two_states / "sim" / "truth.npz", allow_pickle=False)["state"]
    assert z.shape == (300, 2)
    # A linear classifier must read the state from the latents of particles it was not trained on.
    assert probe_accuracy(z, (state > 0.5).astype(int), 0) > 0.95
    events, _ = read_events(out / "events.jsonl")
    metrics = [e["values"] for e in events if e["type"] == "metric" and e["stage"] == "train"]
    assert metrics[-1]["unexplained"] < metrics[0]["unexplained"] < 1.5
    assert events[-1]["status"] == "succeeded" and (out / SUCCESS).exists()
    # The encoder was taught: what it says of an image must tell the states apart too.
    configuration = load_configuration(two_states / "pre" / "cfg.json")
    network = load_network(configuration, load_checkpoint(out / "weights.59.pkl")["model_state_dict"])
    images = torch.from_numpy(ImageStack.from_file(two_states / "pre" / "img_stack.mrcs").read())
    with torch.no_grad():
        encoded = network.encoder(-images * encoder_window(configuration, torch.device("cpu")) / configuration.std)[0]
    assert probe_accuracy(encoded.numpy(), (state > 0.5).astype(int), 0) > 0.9


@pytest.fixture(scope="module")
def one_epoch(two_states: Path) -> Path:
    """The results of a training by one epoch, which several tests look at."""
    assert run_train(two_states, "one_epoch", "--epoch", "1") == 0
    return two_states / "one_epoch"


def test_resume_equals_uninterrupted(two_states: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)
    given = ("--epoch", "3")
    assert run_train(two_states, "whole", *given) == 0
    with monkeypatch.context() as patch:
        report = Trainer.report

        def stop(self: Trainer, log: JobLog, *more: float) -> None:
            if (self.epoch, self.step_in_epoch) in ((0, 7), (1, 4)):
                (log.directory / ABORT).touch()
            report(self, log, *more)

        patch.setattr(Trainer, "report", stop)
        patch.setattr(trainer, "REPORT_SECONDS", 0.0)  # at each step
        assert run_train(two_states, "parts", *given, "--seed", "0") == 3
        assert run_train(two_states, "parts", *given, "--seed", "0", "--resume") == 3
        assert run_train(two_states, "parts", *given, "--seed", "0", "--resume") == 0
    whole = load_checkpoint(two_states / "whole" / "weights.2.pkl")["model_state_dict"]
    parts = load_checkpoint(two_states / "parts" / "weights.2.pkl")["model_state_dict"]
    assert all(torch.equal(whole[name], parts[name]) for name in whole), "one seed, one result"

    program = (
        "import sys, pytest, small_data; from gaussianem_core.cli import main\n"
        "with pytest.MonkeyPatch.context() as patch:\n"
        "    small_data.hasten(patch)\n"
        "    sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = [
        sys.executable,
        "-c",
        program,
        "train",
        "-s",
        str(two_states / "pre"),
        "--job_dir",
        str(two_states / "cut"),
        "--device",
        "cpu",
        "--precision",
        "float32",
        "--batch",
        "20",
        *given,
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(small_data.__file__).parent)}
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, env=environment) as process:
        log = two_states / "cut" / "events.jsonl"
        deadline = time.time() + 120
        while time.time() < deadline and '"stage": "train"' not in (log.read_text() if log.exists() else ""):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
    if code != 0:  # it may just have finished; else it must have stopped cleanly, with its state
        assert code == 3 and (two_states / "cut" / ABORTED).exists()
    assert run_train(two_states, "cut", *given, "--resume") == 0
    again = load_checkpoint(two_states / "cut" / "weights.2.pkl")["model_state_dict"]
    assert all(torch.equal(whole[name], again[name]) for name in whole), "in another process, too"


def test_stopped_while_latents_are_refined_goes_on_as_if_it_had_not(
    two_states: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasten(monkeypatch)
    given = ("--epoch", "4", "--seed", "3", "--latents", "both")
    assert run_train(two_states, "straight", *given) == 0
    encode_all, refine = latent_refinement.encode_all, latent_refinement.refine

    def stop(trainer: Trainer, log: JobLog, *more: float) -> latent_refinement.Refinement:
        (log.directory / ABORT).touch()
        return refine(trainer, log, *more)

    monkeypatch.setattr(latent_refinement, "refine", stop)  # the user's wish comes when the latents are being refined
    assert run_train(two_states, "stopped", *given) == 3
    monkeypatch.setattr(latent_refinement, "refine", refine)
    encoded: list[int] = []
    monkeypatch.setattr(
        latent_refinement, "encode_all", lambda t, log: (encoded.append(t.epoch), encode_all(t, log))[1]
    )
    assert run_train(two_states, "stopped", *given, "--resume") == 0
    assert encoded == [2]
    ends = [load_latents(two_states / name / "weights.3.output.pkl")["z_mu"] for name in ("straight", "stopped")]
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-4, atol=1e-5)


def test_more_epochs_and_fewer(
    two_states: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hasten(monkeypatch)
    out = two_states / "longer"
    assert run_train(two_states, "longer", "--epoch", "3") == 0
    assert run_train(two_states, "longer", "--epoch", "1", "--resume") == 2
    assert "must not be less than the 3 epochs" in capsys.readouterr().err
    assert (out / "weights.2.output.pkl").exists(), "a refusal loses nothing"
    assert run_train(two_states, "longer", "--epoch", "5", "--resume") == 0
    assert load_checkpoint(out / "weights.4.pkl")["epoch"] == 4
    assert run_train(two_states, "longer", "--resume") == 0  # as long as before: only the end is done again
    assert not (out / "weights.5.pkl").exists()
    state = (out / "training_state.pt").read_bytes()
    (out / "training_state.pt").write_bytes(state[:-100])
    assert run_train(two_states, "longer", "--resume") == 2
    assert "Start again without --resume" in capsys.readouterr().err
    save_checkpoint({"epoch": 1}, out / "training_state.pt")
    assert run_train(two_states, "longer", "--resume") == 2
    assert "must hold step_in_epoch" in capsys.readouterr().err
    # Files of more epochs than the new training has would pass for its last.
    assert run_train(two_states, "longer", "--epoch", "2", "--overwrite") == 0
    assert {path.name for path in out.glob("weights.*")} == {"weights.0.pkl", "weights.1.pkl", "weights.1.output.pkl"}
    assert len(list((out / "probes").iterdir())) == 3, "the start and two epochs"


def test_results_are_not_written_over_the_input(two_states: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(two_states / "pre", two_states / "published", ignore=shutil.ignore_patterns("RELION*"))
    before = (two_states / "published" / "point_cloud.ply").read_bytes()
    assert run_train(two_states, "published", "--epoch", "1") == 2
    assert "point_cloud.ply" in capsys.readouterr().err
    assert (two_states / "published" / "point_cloud.ply").read_bytes() == before


def test_abort_file(two_states: Path) -> None:
    out = two_states / "aborted"
    out.mkdir()
    (out / ABORT).touch()
    assert run_train(two_states, "aborted", "--epoch", "3") == 3
    assert (out / ABORTED).exists() and not (out / ABORT).exists()
    assert json.loads((out / "options.json").read_text())["epoch"] == 3


def test_published_recipe_runs(two_states: Path) -> None:
    assert run_train(two_states, "recipe", "--epoch", "3", "--recipe", "published") == 0
    events, _ = read_events(two_states / "recipe" / "events.jsonl")
    last = [e["values"] for e in events if e["type"] == "metric" and e["stage"] == "train"][-1]
    assert {"data", "kl", "embedding", "distance", "direction", "spacing", "latent"} <= set(last)
    assert "detail" not in load_checkpoint(two_states / "recipe" / "weights.2.pkl")


def test_volumes_have_the_consensus_map_as_their_mean_but_half_sets_share_nothing(
    two_states: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasten(monkeypatch)
    assert run_train(two_states, "detailed", "--epoch", "2", "--half_sets") == 0
    out, pre = two_states / "detailed", two_states / "pre"
    z = load_latents(out / "weights.1.output.pkl")["z_mu"]
    given = torch.from_numpy(read_map(pre / "consensus_map.mrc").values)

    def agreement(detail: bool) -> float:
        model = load_model(pre / "cfg.json", out / "weights.1.pkl", device="cpu", detail=detail)
        return float(fsc_area(fourier_shell_correlation(reduce(torch.add, model.volumes(z)) / len(z), given), 16))

    assert agreement(True) > max(agreement(False), 0.42)  # 7/16 at most
    for half in ("half1", "half2"):
        assert "detail" not in load_checkpoint(out / half / "weights.1.pkl")


def test_corrections_go_into_particles_star_and_beside_the_latents(
    two_states: Path, one_epoch: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Poses of this simulation are exact: what is held, or not found wrong, stays to the last digit."""
    latents = load_latents(one_epoch / "weights.0.output.pkl")
    assert latents["turn_degrees"].shape == (300, 3) and latents["shift_pixels"].shape == (300, 2)
    assert np.sqrt(np.square(latents["turn_degrees"]).mean()) < 1.0, "box 16: ten degrees are a pixel"
    assert abs(latents["contrast"].mean() - 1) < 0.05 and (latents["junk_probability"] < 0.5).all()
    events, _ = read_events(one_epoch / "events.jsonl")
    assert "corrections" in {e["stage"] for e in events if e["type"] == "metric"}
    hasten(monkeypatch)
    held = ("--hold_rotations", "--hold_shifts", "--hold_contrast", "--hold_defocus")
    assert run_train(two_states, "held", "--epoch", "1", *held) == 0
    assert (two_states / "held" / "particles.star").read_bytes() == (two_states / "pre" / "particles.star").read_bytes()
    latents = load_latents(two_states / "held" / "weights.0.output.pkl")
    assert (latents["turn_degrees"] == 0).all() and (latents["contrast"] == 1).all()
    assert run_train(two_states, "refused", "--recipe", "published", "--keep_junk") == 2
    assert "keep_junk" in capsys.readouterr().err


def test_one_image_a_million_times_too_bright_is_named_and_the_rest_is_trained(two_states: Path) -> None:
    shutil.copytree(two_states / "pre", two_states / "bright" / "pre")
    stack = two_states / "bright" / "pre" / "img_stack.mrcs"
    values = np.memmap(stack, "<f4", "r+", offset=1024, shape=(300, 16, 16))
    values[7] *= 1e6
    values.flush()
    assert run_train(two_states / "bright", "out", "--epoch", "10") == 0
    latents = load_latents(two_states / "bright" / "out" / "weights.9.output.pkl")
    state = np.load(two_states / "sim" / "truth.npz", allow_pickle=False)["state"]
    assert latents["junk_probability"][7] == 1 and (np.delete(latents["junk_probability"], 7) < 0.5).all()
    assert probe_accuracy(np.delete(latents["z_mu"], 7, 0), (np.delete(state, 7) > 0.5).astype(int), 0) > 0.95
    events, _ = read_events(two_states / "bright" / "out" / "events.jsonl")
    assert any("images that hold no such particle: 1 of 300: 8" in e.get("text", "") for e in events)


@pytest.mark.parametrize("recipe", ["default", "published"])
def test_one_shape_and_a_blank_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    """Nothing stands above the noise: the published recipe, which leaves the Gaussians alone, then learns nothing.

    An image of zeros among the others is junk, and spoils none of them.
    """
    monkeypatch.setattr(teaching, "ENCODER_EPOCHS", 1)
    monkeypatch.setattr(teaching, "ENCODER_STEPS", 1)
    simulate(tmp_path, particles=40, box=16, snr=0.1, frames=1)
    with mrcfile.mmap(tmp_path / "particles.mrcs", "r+") as file:
        file.data[5] = 0
    assert preprocess(tmp_path, tmp_path / "pre") == 0
    words = ["train", "-s", str(tmp_path / "pre"), "--job_dir", str(tmp_path / "out"), "--device", "cpu"]
    words += ["--batch", "20", "--recipe", recipe, "--latents", "linear"]
    assert main([*words, "--epoch", "1"]) == 0
    assert "no component stands above the noise: nothing to find" in capsys.readouterr().out
    assert main([*words, "--epoch", "2", "--resume"]) == 0
    found = load_latents(tmp_path / "out" / "weights.1.output.pkl")
    assert all(np.isfinite(values).all() for values in found.values())
    assert not found["z_mu"].any()
    encoder = load_checkpoint(tmp_path / "out" / "weights.1.pkl")["model_state_dict"]
    last = [value for name, value in encoder.items() if name.startswith("encoder.")][-2:]
    assert not any(value.any() for value in last)  # it gives every image the one latent that there is
    if recipe == "default":  # the other one weighs every image alike
        assert found["junk_probability"].argmax() == 5 and found["junk_probability"][5] > 0.99


def test_mask_keeps_gaussians_still(two_states: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)
    pre = two_states / "pre"
    configuration = load_configuration(pre / "cfg.json")
    gaussians = load_gaussians(pre / "point_cloud.ply", configuration.scale_min, configuration.scale_max)
    keep = (gaussians.positions[:, 2].abs() > 0.25).numpy().astype(np.uint8)
    np.save(pre / "mask_indices.npy", keep)
    assert run_train(two_states, "masked", "--epoch", "1", "--mask", "mask_indices.npy") == 0
    np.savetxt(pre / "mask.txt", keep, fmt="%d")
    np.testing.assert_array_equal(load_mask(pre / "mask.txt", gaussians, configuration), keep.astype(bool))


def test_masks_that_do_not_fit(two_states: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = len(PlyData.read(two_states / "pre" / "point_cloud.ply")["vertex"])
    np.save(tmp_path / "short.npy", np.ones(count - 1))
    np.save(tmp_path / "values.npy", np.full(count, 3))
    np.save(tmp_path / "nothing.npy", np.zeros(count))
    half = np.zeros((32, 32, 32), np.float32)
    half[:16] = 1
    write_map(tmp_path / "long.mrc", half, 6.0)  # the images span 16 x 6 A
    write_map(tmp_path / "flat.mrc", half[:20], 3.0)
    for name, words in {
        "short.npy": f"must be {count} values 0 or 1, one a Gaussian (got the shape ({count - 1},))",
        "values.npy": "(got 3)",
        "nothing.npy": "at least one Gaussian",
        "long.mrc": "must be a cube of 96.0 A",
        "flat.mrc": "must be a cube of 96.0 A",
    }.items():
        assert run_train(two_states, "masked2", "--epoch", "1", "--mask", str(tmp_path / name)) == 2
        assert words in capsys.readouterr().err
    configuration = load_configuration(two_states / "pre" / "cfg.json")
    gaussians = load_gaussians(two_states / "pre" / "point_cloud.ply", 0.01, 0.1)
    write_map(tmp_path / "fine.mrc", half, 3.0)  # the same length in another box
    chosen = load_mask(tmp_path / "fine.mrc", gaussians, configuration).numpy()
    np.testing.assert_array_equal(chosen, (16 + gaussians.positions[:, 2].numpy() * 16).round() < 16)


def test_refusals(two_states: Path, one_epoch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_train(two_states, one_epoch.name, "--epoch", "1") == 2  # results are there
    assert "--overwrite" in capsys.readouterr().err
    assert run_train(two_states, "bad", "--pose", "nowhere.npy") == 2
    assert "nowhere.npy" in capsys.readouterr().err
    poses = np.load(two_states / "pre" / "poses.npy")
    np.save(two_states / "pre" / "few.npy", poses[:-1])
    assert run_train(two_states, "bad", "--pose", "few.npy") == 2
    assert "one row for each of the 300 images" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert (
            main(["train", "-s", str(two_states / "pre"), "--job_dir", str(two_states / "bad"), "--device", "cuda"])
            == 1
        )
        assert "no usable CUDA GPU" in capsys.readouterr().err


def run_two_processes(folder: Path, name: str, *more: str) -> None:
    """As :func:`run_train`, by two processes with half the batch each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "gaussianem_core",
        "train",
        "-s",
        str(folder / "pre"),
        "--job_dir",
        str(folder / name),
        "--overwrite",
        "--device",
        "cpu",
        "--precision",
        "float32",
        "--batch",
        "10",
        *more,
    ]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_processes_equal_one(two_states: Path) -> None:
    """Two processes with half the batch each must learn what one learns (float32 sums in another order)."""
    given = ("--epoch", "2", "--latents", "both")
    assert run_train(two_states, "one", *given) == 0
    run_two_processes(two_states, "two", *given)
    one = load_checkpoint(two_states / "one" / "weights.0.pkl")["model_state_dict"]
    two = load_checkpoint(two_states / "two" / "weights.0.pkl")["model_state_dict"]
    # Adam makes whole steps of rounding where a gradient is nearly zero. Fifteen steps of the default rate move a value
    # by up to 7.5e-3: processes that did not share gradients or batch norm would differ by as much.
    for name in one:
        assert (two[name] - one[name]).double().square().mean().sqrt() < 2e-3, name
    z = [load_latents(two_states / run / "weights.1.output.pkl")["z_mu"] for run in ("one", "two")]
    assert z[0].shape == z[1].shape == (300, 2)


def test_two_processes_find_the_linear_model_of_one(two_states: Path, one_epoch: Path) -> None:
    """The latents agree, and still do when a network whose training rounds in another order has measured them anew."""
    run_two_processes(two_states, "linear_by_two", "--epoch", "1")
    runs = [one_epoch, two_states / "linear_by_two"]
    first, second = (np.load(run / "probes" / "epoch_000.npz", allow_pickle=False)["z"] for run in runs)
    assert first.std(axis=0).max() > 0.3
    np.testing.assert_allclose(first, second, atol=0.01)
    one, two = (load_latents(run / "weights.0.output.pkl")["z_mu"] for run in runs)
    assert one.shape == two.shape == (300, 2)
    assert np.corrcoef(one[:, 0], two[:, 0])[0, 1] > 0.98


def test_gauss_newton_solves_a_linear_model() -> None:
    """For images linear in z the maximum a posteriori and its covariance are known in closed form."""
    generator = torch.Generator().manual_seed(0)
    box, zdim, noise = 8, 3, 0.5
    directions = torch.randn(zdim, box, box, generator=generator)
    truth = torch.randn(5, zdim, generator=generator)
    images = torch.einsum("bz,zyx->byx", truth, directions) + noise * torch.randn(5, box, box, generator=generator)
    weight = fourier.half_plane_weight(box).expand(box, -1) / noise**2

    def render(z: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft2(torch.einsum("bmz,zyx->bmyx", z, directions), norm="ortho")

    spectra = torch.fft.rfft2(images, norm="ortho")
    found = latent_posterior.gauss_newton(
        render, spectra, weight, torch.zeros(5, zdim), torch.arange(zdim), 0.7, iterations=6, largest_step=10.0
    )
    flat = directions.flatten(1)
    information, linear = flat @ flat.T / noise**2, images.flatten(1) @ flat.T / noise**2
    expected = torch.linalg.solve(information + 0.7 * torch.eye(zdim), linear.T).T
    torch.testing.assert_close(found.z, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.information, information.expand(5, -1, -1), rtol=1e-2, atol=0.1)
    torch.testing.assert_close(found.linear, linear, rtol=1e-2, atol=0.1)
    residual = images.flatten(1) - expected @ flat
    torch.testing.assert_close(found.log_likelihood, -0.5 * residual.square().sum(1) / noise**2, rtol=1e-3, atol=1e-2)


def test_latent_table_is_adam() -> None:
    """Rows follow torch's Adam when each is in every batch."""
    table = latent_posterior.new_table(4, 1, torch.Generator().manual_seed(0), torch.device("cpu"), 0.3, 0.5)
    reference = table.values.clone().requires_grad_()
    optimiser = torch.optim.Adam(
        [reference], lr=0.05, betas=(latent_posterior.BETA1, latent_posterior.BETA2), eps=latent_posterior.EPSILON
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        gradient = torch.randn(4, 2, generator=generator)
        table.step(torch.arange(4), gradient, 0.05)
        reference.grad = gradient.clone()
        optimiser.step()
    torch.testing.assert_close(table.values, reference.detach(), rtol=1e-5, atol=1e-6)


def test_likelihood_is_the_pixel_sum() -> None:
    """Parseval: half the weighted squared residual over the half plane is that over pixels."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 16, 16, generator=generator)
    weight = fourier.half_plane_weight(16).expand(16, -1)
    spectra = [torch.fft.rfft2(x, norm="ortho") for x in (a, b)]
    torch.testing.assert_close(likelihood.squared_error(*spectra, weight), 0.5 * (a - b).square().sum((-2, -1)))


def test_rigid_motion_costs_nothing() -> None:
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    pairs = regularisers.find_pairs(points)
    shift = torch.tensor([0.1, -0.2, 0.3]).expand(2, 50, 3)
    assert regularisers.rigidity_term(shift, pairs) < 1e-10
    assert regularisers.distance_term(points + shift, pairs) < 1e-6
    strain = points * 0.1
    assert regularisers.rigidity_term(strain[None], pairs) == pytest.approx(0.01 * float(pairs.weight.mean()), rel=1e-3)


def test_the_anchor_is_a_normal_prior_about_the_consensus(two_states: Path) -> None:
    configuration = load_configuration(two_states / "pre" / "cfg.json")
    first = load_gaussians(two_states / "pre" / "point_cloud.ply", configuration.scale_min, configuration.scale_max)
    anchor = regularisers.find_anchor(first)
    assert float(regularisers.anchor_term(first, anchor)) == 0.0
    # One width in each of the five parameters of every Gaussian is 5/2 nats a Gaussian.
    one = replace(
        first,
        positions=first.positions + regularisers.ANCHOR_POSITION * first.scale_min,
        raw_density=first.raw_density + regularisers.ANCHOR_DENSITY * first.densities.mean(),
        raw_scale=first.raw_scale - regularisers.ANCHOR_SCALE,
    )
    assert float(regularisers.anchor_term(one, anchor)) == pytest.approx(2.5 * len(first), rel=1e-3)


def test_log_refuses_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="writable directory"), JobLog(tmp_path / "file" / "job", []):
        pass
    assert TrainOptions(output="x", source_dir=str(tmp_path)).output_directory() == tmp_path / "x"


def test_a_killed_training_lacks_no_network_when_resumed(moving: Path, tmp_path: Path) -> None:
    """Killed between two files of an epoch, at each place: what is there after resuming is what a whole run leaves."""
    from gaussianem_core.commands import train

    words = ["train", "-s", str(moving / "pre"), "--device", "cpu", "--batch", "64", "--recipe", "published"]
    assert main([*words, "--epoch", "3", "--job_dir", str(tmp_path / "whole")]) == 0
    expected = sorted(path.name for path in (tmp_path / "whole").glob("weights.*"))
    program = """
import os, sys
from gaussianem_core.cli import main
from gaussianem_core.commands import train
save, left = train.save_checkpoint, [int(sys.argv[1])]
def dying(content, path):
    save(content, path)
    left[0] -= 1
    if not left[0]:
        (path.parent / f".{path.name}.{os.getpid()}.1.tmp").write_bytes(b"half")
        os._exit(9)
train.save_checkpoint = dying
main(sys.argv[2:])
"""
    assert train.save_checkpoint
    for saved in (1, 2, 3, 4):
        out = tmp_path / str(saved)
        command = [sys.executable, "-c", program, str(saved), *words, "--epoch", "3", "--job_dir", str(out)]
        assert subprocess.run(command, check=False, capture_output=True).returncode == 9
        assert main([*words, "--epoch", "3", "--job_dir", str(out), "--resume"]) == 0
        assert sorted(path.name for path in out.glob("weights.*")) == expected
        assert not list(out.glob(".*.tmp"))
    (tmp_path / "whole" / "weights.2.pkl").unlink()  # as an older version left it: the state saved, the network not
    assert main([*words, "--epoch", "4", "--job_dir", str(tmp_path / "whole"), "--resume"]) == 0
    assert (tmp_path / "whole" / "weights.2.pkl").exists() and (tmp_path / "whole" / "weights.3.pkl").exists()
