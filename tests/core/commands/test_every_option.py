"""Every option of every job changes what the job makes, or is refused where it would change nothing.

Each job has one small run, and one more for each of its options with that option alone changed. An option that says
only where files lie or how the work is done is named, with the test that shows what it does.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_data import NETWORK, hasten, preprocess, simulate
from trained import write_model

from gaussianem_core.cli import main
from gaussianem_core.io.mrc import read_map, write_map
from gaussianem_core.job.events import CONTROL_FILES, EVENTS, OPTIONS, read_events
from gaussianem_core.options import JOB_OPTIONS, LATENTS_OF_RECIPE
from gaussianem_core.training.recipe import RECIPES

NOT_RESULTS = {EVENTS, OPTIONS, *CONTROL_FILES, "options.json", "report.html"}  # the page names its folder
EVERY_JOB = {
    "job_dir": "test_cli: where output goes",
    "output": "test_cli: where output goes",
    "overwrite": "test_cli: finished jobs are left alone",
    "device": "test_gpu",
    "threads": "test_threads",
}


# What each option is changed to, one after the other; a line of several options where one needs another.
# A path that leads nowhere must be refused under the option's name.
CHANGES: dict[str, dict[str, list[str]]] = {
    "simulate": {
        "model": ["--model nowhere.npz"],
        "particles": ["--particles 7"],
        "box": ["--box 18"],
        "apix": ["--apix 7"],
        "snr": ["--snr 0.5"],
        "tilts": ["--tilts 3"],
        "tilt_range": ["--tilts 3 --tilt_range 40", "--tilt_range 40"],
        "tilt_dose": ["--tilts 3 --tilt_dose 50", "--tilt_dose 50"],
        "thickness": ["--tilts 3 --thickness 4000", "--thickness 4000"],
        "resolution": ["--resolution 30"],
        "float16": ["--float16"],
        "no_ctf": ["--no_ctf"],
        "defocus_min": ["--defocus_min 9000", "--defocus_min 9000 --no_ctf"],
        "defocus_max": ["--defocus_max 20000"],
        "astigmatism": ["--astigmatism 10"],
        "voltage": ["--voltage 200"],
        "cs": ["--cs 0.01"],
        "amplitude_contrast": ["--amplitude_contrast 0.07"],
        "shift": ["--shift 1"],
        "poses": ["--poses nowhere.star"],
        "pose_error": ["--pose_error 2"],
        "shift_error": ["--shift_error 1"],
        "defocus_error": ["--defocus_error 300", "--defocus_error 300 --no_ctf"],
        "consensus": ["--consensus reconstructed"],
        "contrast_spread": ["--contrast_spread 0.2"],
        "noise": ["--noise coloured"],
        "gradient": ["--gradient 0.5"],
        "junk": ["--junk 0.3"],
        "junk_kinds": ["--junk_kinds noise"],
        "junk_model": ["--junk_model molecule.npz"],
        "missing": ["--missing arm"],
        "missing_fraction": ["--missing_fraction 0.5"],
        "states": ["--states endpoints"],
        "basins": ["--basins 0.5:0.1:1"],
        "motions": ["--motions arm"],
        "projector": ["--projector reference"],
        "seed": ["--seed 1"],
    },
    "preprocess": {
        "source_dir": ["--source_dir nowhere"],
        "star_file": ["--star_file nowhere.star"],
        "data_dir": ["--data_dir nowhere"],
        "passthrough": ["--passthrough nowhere.cs"],
        "consensus_map": ["--consensus_map nowhere.mrc"],
        "group_by": ["--group_by rlnGroupName"],
        "size": ["--size 18"],
        "apix": ["--apix 3"],
        "voltage": ["--voltage 200"],
        "cs": ["--cs 1"],
        "amplitude_contrast": ["--amplitude_contrast 0.3"],
        "downsample_size": ["--downsample_size 12"],
        "symmetry": ["--symmetry C2"],
        "no_window": ["--no_window"],
        "float16": ["--float16"],
        "map_thres": ["--map_thres 1.5"],
        "sample_interval": ["--sample_interval 2"],
        "max_gaussians": ["--max_gaussians 40"],
        "scale_min": ["--scale_min 0.4"],
        "scale_max": ["--scale_max 1.3"],
        "batch_size": ["--batch_size 7 --epoch 0"],
        "consensus_recipe": ["--consensus_recipe published", "--consensus_recipe published --epoch 0"],
        "projector": ["--projector reference"],
        "seed": ["--seed 1"],
        **{name: [f"--{name} 9"] for name in ("qlayers", "qdim", "zdim", "gaussian_kdim", "gaussian_klayers")},
        **{name: [f"--{name} 9"] for name in ("gaussian_embedding_dim", "feature_kdim", "feature_klayers")},
        "feature_dim": ["--feature_dim 24"],
    },
    "train": {
        "source_dir": ["--source_dir nowhere"],
        "particle_name": ["--particle_name nowhere"],
        "pose": ["--pose nowhere.npy"],
        "ctf": ["--ctf nowhere.npy"],
        "point": ["--point nowhere.ply"],
        "cfg": ["--cfg nowhere.json"],
        "mask": ["--mask mask.npy"],
        "batch": ["--batch 10"],
        "epoch": ["--epoch 2"],
        "recipe": ["--recipe published"],
        "lr": ["--lr 1e-3"],
        "lr_latent": [f"--lr_latent 1e-3 --latents {name}" for name in ("auto", "linear", "encoder", "free", "both")],
        "latents": [f"--latents {name}" for name in ("encoder", "free", "both")],
        "warmup_steps": ["--warmup_steps 0"],
        "beta": [f"--beta 0.01 --latents {name}" for name in ("auto", "linear", "encoder", "free", "both")],
        "w_embedding": ["--w_embedding 0.1"],
        "w_distance": ["--w_distance 0.1"],
        "w_direction": ["--w_direction 0.1"],
        "w_spacing": ["--w_spacing 0.1"],
        "w_latent": [f"--w_latent 0.1 --latents {name}" for name in ("auto", "linear", "encoder", "free", "both")],
        "pairs": ["--pairs 20"],
        **{f"hold_{name}": [f"--hold_{name}"] for name in ("rotations", "shifts", "contrast", "defocus")},
        "keep_junk": ["--keep_junk"],
        "precision": ["--precision bfloat16 --projector reference"],
        "projector": ["--projector reference --precision float32"],
        "half_sets": ["--half_sets"],
        "seed": ["--seed 1"],
    },
    "train, published recipe": {
        "latents": [f"--latents {name}" for name in ("linear", "free", "both")],
        "lr": ["--lr 1e-3"],
        "lr_latent": [f"--lr_latent 1e-3 --latents {name}" for name in ("auto", "linear", "free", "both")],
        "beta": ["--beta 0.1", "--beta 0.1 --latents linear", "--beta 0.1 --latents free"],
        "warmup_steps": ["--warmup_steps 0"],
        "w_embedding": ["--w_embedding 0.1"],
        "w_distance": ["--w_distance 0.1"],
        "w_direction": ["--w_direction 0.1"],
        "w_spacing": ["--w_spacing 0.1"],
        "w_latent": ["--w_latent 0.1", "--w_latent 0.1 --latents linear"],
        "pairs": ["--pairs 20"],
    },
    "analyze": {
        "source_dir": ["--source_dir nowhere"],
        "gaussians": ["--gaussians nowhere.ply"],
        "cfg": ["--cfg nowhere.json"],
        "model_weight": ["--model_weight nowhere.pkl"],
        "latent": ["--latent nowhere.pkl"],
        "mask": ["--mask moving/half.npy"],
        "star_file": ["--star_file particles.star"],
        "nclass": ["--nclass 3"],
        "components": ["--components 0"],
        "trajectory_points": ["--trajectory_points 3", "--trajectory_points 3 --components 0"],
        "trajectory_low": ["--trajectory_low 20"],
        "trajectory_high": ["--trajectory_high 60"],
        "box": ["--box 12"],
        "no_umap": ["--no_umap no"],
        "projector": ["--projector reference"],
        "seed": ["--seed 5"],
    },
    "analyze, of a training": {"no_detail": ["--no_detail"]},
    "decode": {
        "source_dir": ["--source_dir nowhere"],
        "gaussians": ["--gaussians nowhere.ply"],
        "cfg": ["--cfg nowhere.json"],
        "model_weight": ["--model_weight nowhere.pkl"],
        "z": ["--z nowhere.txt"],
        "particle_indices": ["--particle_indices rows.txt"],
        "mask": ["--mask mask.npy"],
        "box": ["--box 12"],
        "no_detail": ["--no_detail"],
        "projector": ["--projector reference"],
    },
    "evaluate": {
        "source_dir": ["--source_dir nowhere"],
        "gaussians": ["--gaussians nowhere.ply"],
        "cfg": ["--cfg nowhere.json"],
        "model_weight": ["--model_weight nowhere.pkl"],
        "truth": ["--truth nowhere.npz"],
        "latent": ["--latent nowhere.pkl"],
        "volumes": ["--volumes 2"],
        "mask": ["--mask mask.mrc"],
        "consensus_map": ["--consensus_map nowhere.mrc"],
        "particles": ["--particles nowhere.star"],
        "no_detail": ["--no_detail"],
        "projector": ["--projector reference"],
        "seed": ["--seed 1"],
    },
    "reconstruct": {
        "no_invert": ["--no_invert"],
        "source_dir": ["--source_dir nowhere"],
        "star_file": ["--star_file nowhere.star"],
        "data_dir": ["--data_dir nowhere"],
        "passthrough": ["--passthrough nowhere.cs"],
        "group_by": ["--group_by rlnGroupName"],
        "poses": ["--poses nowhere.star"],
        "select": ["--select half.txt"],
        "weights": ["--weights nowhere.npy"],
        "latent": ["--latent nowhere.pkl"],
        "around": ["--around z.txt"],
        "width": ["--width 10"],
        "model_weight": ["--model_weight nowhere.pkl"],
        "undo_motion": ["--undo_motion"],
        "domain_poses": ["--domain_poses mask.mrc"],
        "subtract": ["--subtract"],
        "cfg": ["--cfg nowhere.json"],
        "gaussians": ["--gaussians nowhere.ply"],
        "symmetry": ["--symmetry C2"],
        "box": ["--box 12"],
        "apix": ["--apix 10"],
        "mask": ["--mask mask.mrc"],
        "bfactor": ["--bfactor -90"],
        "no_local": ["--no_local"],
        "deposit": ["--deposit"],
        "image_apix": ["--image_apix 7"],
        "voltage": ["--voltage 200"],
        "cs": ["--cs 1"],
        "amplitude_contrast": ["--amplitude_contrast 0.3"],
        "projector": ["--projector reference"],
        "seed": ["--seed 1"],
    },
    "reconstruct, states": {
        "latent": ["--latent nowhere.pkl"],
        "around": ["--around one.txt"],
        "width": ["--width 10", "--width 10 --undo_motion --model_weight train/weights.2.pkl"],
        "model_weight": ["--model_weight train/weights.2.pkl --cfg pre/cfg.json --gaussians pre/point_cloud.ply"],
    },
    "reconstruct, motion": {
        "cfg": ["--cfg nowhere.json"],
        "gaussians": ["--gaussians nowhere.ply"],
        "domain_poses": ["--domain_poses mask.mrc"],
        "subtract": ["--subtract --domain_poses mask.mrc"],
        "around": ["--around one.txt"],
        "symmetry": ["--symmetry C2"],
    },
    "morph": {
        "source_dir": ["--source_dir nowhere"],
        "gaussians": ["--gaussians nowhere.ply"],
        "cfg": ["--cfg nowhere.json"],
        "model_weight": ["--model_weight nowhere.pkl"],
        "model": ["--model nowhere.cif"],
        "z": ["--z nowhere.txt"],
        "format": ["--format pdb"],
        "neighbours": ["--neighbours 2"],
        "projector": ["--projector reference"],
    },
    "import": {
        "files": ["nowhere.star"],
        "kind": ["--kind map"],
        "copy_files": ["--copy_files"],
        "latents": ["--latents nowhere.pkl"],
        "indices": ["--indices nowhere.pkl"],
        "columns": ["--columns z_1"],
        "passthrough": ["--passthrough nowhere.cs"],
        "data_dir": ["--data_dir nowhere"],
    },
}
# Options that leave the result as it is, and where it is shown what they do.
WITHOUT_CHANGE: dict[str, dict[str, str]] = {
    "preprocess": {
        "downsample_batch": "test_how_images_are_kept",
        # So few images show which way the protein is, and their fit stops at once on those held out.
        "no_invert": "test_preprocess",
        "epoch": "test_preprocess, test_consensus_fit",
    },
    "train": {
        "resume": "test_train: resuming equals going on",
        "gpus": "test_cli: two processes",
        "scratch_dir": "test_image_feed: scratch copies",
        "stack_in_memory": "test_how_images_are_kept",
    },
    # The application fills it in wherever there are latents.
    "decode": {"latent": "needed with particle_indices, which is refused without it"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with simulated, prepared and trained data of 40 images of 16 px, in which the jobs run."""
    folder = tmp_path_factory.mktemp("options")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        hasten(patch)  # how long these stages take is no option's
        simulate(folder, box=16, snr=20, frames=2)
        assert preprocess(folder, folder / "pre") == 0
        assert run("train", folder, "train") == 0
        events, _ = read_events(folder / "train" / EVENTS)
        said = [event["text"] for event in events if event["type"] == "message"]
        assert any("motion is real" in text for text in said), (
            f"else {said} options of motion and classes could change nothing"
        )
        count = len(np.load(folder / "train" / "probes" / "epoch_000.npz")["rows"])
        assert count == 40
        (folder / "rows.txt").write_text("0-2\n")
        (folder / "half.txt").write_text("0-19\n")
        (folder / "one.txt").write_text("1 0\n")
        (folder / "z2.txt").write_text("1 0\n-1 0.5\n")
        (folder / "z.txt").write_text("1 0\n-1 0.5\n0 0\n")
        (folder / "fitted.pdb").write_text(
            "".join(
                f"ATOM  {i + 1:5d}  CA  GLY A{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 10.00           C\n"
                for i, (x, y, z) in enumerate(np.random.default_rng(0).normal(48, 12, (12, 3)))
            )
        )
        consensus = read_map(folder / "consensus.mrc")
        write_map(folder / "mask.mrc", (consensus.values > consensus.values.mean()).astype(np.float32), 8.0)
        gaussians = torch.load(folder / "train" / "weights.2.pkl", weights_only=True)["gaussians"]["positions"]
        write_model(folder / "moving", np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32))
        np.save(folder / "moving" / "half.npy", (np.arange(60) < 30).astype(np.uint8))
        np.savetxt(folder / "moves.txt", [[1, 0, 0], [-1, 1, 0.5]])
        np.save(folder / "mask.npy", (gaussians[:, 2] > 0).numpy().astype(np.uint8))
        np.save(folder / "pre" / "mask.npy", (gaussians[:, 2] > 0).numpy().astype(np.uint8))
        yield folder


BASES = {
    "simulate": "--model molecule.npz --particles 12 --box 16 --apix 8 --snr 1",
    "preprocess": "-s . --star_file particles.star --consensus_map consensus.mrc --epoch 1",
    "train": "-s pre --batch 4 --epoch 3",
    "train, published recipe": "-s pre --batch 4 --epoch 3 --recipe published",
    "analyze": "--cfg moving/cfg.json --gaussians moving/point_cloud.ply --model_weight moving/weights.0.pkl "
    "--latent moving/weights.0.output.pkl --nclass 2 --components 1 --trajectory_points 2 --no_umap",
    "analyze, of a training": "--cfg pre/cfg.json --gaussians pre/point_cloud.ply --model_weight train/weights.2.pkl "
    "--latent train/weights.2.output.pkl --no_umap",
    "decode": "--cfg pre/cfg.json --gaussians pre/point_cloud.ply --model_weight train/weights.2.pkl "
    "--latent train/weights.2.output.pkl --z z.txt",
    "evaluate": "--cfg pre/cfg.json --gaussians pre/point_cloud.ply --model_weight train/weights.2.pkl "
    "--latent train/weights.2.output.pkl --truth truth.npz --volumes 4",
    "reconstruct": "--star_file particles.star",
    "reconstruct, states": "--star_file particles.star --latent train/weights.2.output.pkl --around z2.txt --no_local",
    "reconstruct, motion": "--star_file particles.star --latent train/weights.2.output.pkl --undo_motion --no_local "
    "--cfg pre/cfg.json --gaussians pre/point_cloud.ply --model_weight train/weights.2.pkl",
    "morph": "-s . --cfg moving/cfg.json --gaussians moving/point_cloud.ply --model_weight moving/weights.0.pkl "
    "--model fitted.pdb --z moves.txt",
    "import": "particles.star",
}


def run(case: str, out: Path, name: str, *more: str) -> int:
    """One job in ``out / name``, made from its base line and ``more``."""
    job = case.partition(",")[0]
    device = [] if job == "import" else ["--device", "cpu"]
    base = [word for word in BASES[case].split() if job != "import" or not more or more[0].startswith("--")]
    shutil.rmtree(out / name, ignore_errors=True)
    if job == "decode" and "--particle_indices" in more:
        base = base[: base.index("--z")]
    if job == "preprocess":
        device += NETWORK
    return main([job, *base, *device, "--job_dir", str(out / name), *more])


def digest(folder: Path) -> str:
    """One number for all that a job made: names and content, links as links, figures by their names."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.name in NOT_RESULTS:
            continue
        total.update(str(path.relative_to(folder)).encode())
        total.update(str(path.readlink()).encode() if path.is_symlink() else b"")
        if path.suffix != ".png":
            total.update(path.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def bases(place: Path) -> dict[str, str]:
    """What each job makes of its base line, computed when it is first asked for."""
    return {}


def cases() -> list[tuple[str, str]]:
    return [(case, name) for case, options in CHANGES.items() for name in options]


def test_no_option_is_left_out() -> None:
    for job, model in JOB_OPTIONS.items():
        told = {name for case, options in CHANGES.items() if case.partition(",")[0] == job for name in options}
        known = {*told, *WITHOUT_CHANGE.get(job, {}), *EVERY_JOB}
        assert set(model.model_fields) <= known, f"{job}: say here what the option changes"
        assert told <= set(model.model_fields)


def test_recipes_take_the_latents_that_the_options_say() -> None:
    assert {name: recipe.latents for name, recipe in RECIPES.items()} == LATENTS_OF_RECIPE


@pytest.mark.parametrize(("case", "name"), cases(), ids=[f"{case}-{name}" for case, name in cases()])
def test_option(place: Path, bases: dict[str, str], case: str, name: str) -> None:
    if case not in bases:
        assert run(case, place, "base") == run(case, place, "changed") == 0
        bases[case] = digest(place / "base")
        assert digest(place / "changed") == bases[case], "else every comparison below would see a change"
    for line in CHANGES[case][name]:
        told = io.StringIO()
        with contextlib.redirect_stderr(told):
            code = run(case, place, "changed", *line.split())
        if code == 0:
            assert digest(place / "changed") != bases[case], f"{line} changes nothing"
        else:
            assert code == 2, told.getvalue()
            assert name in told.getvalue() and "(got " in told.getvalue(), told.getvalue()


@pytest.mark.parametrize("option", ["--beta 0.1", "--lr_latent 0.1", "--w_latent 0.1"])
def test_a_refusal_names_option_recipe_and_remedy(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert main(["train", *option.split()]) == 2
    name, value = option.split()
    message = capsys.readouterr().err
    assert f"option {name[2:]}: changes nothing in the recipe default with latents linear (got {value})." in message
    assert "or give --latents free" in message


@pytest.mark.parametrize("case", [case for case in BASES if case in JOB_OPTIONS and case != "import"])
def test_threads(place: Path, case: str) -> None:
    wanted = 1 if torch.get_num_threads() > 1 else 2
    assert run(case, place, "threads", "--threads", str(wanted)) == 0
    assert torch.get_num_threads() == wanted


def test_how_images_are_kept(place: Path) -> None:
    """From disk or from memory, cropped in few or many pieces: the same result, and the program says what it did."""
    for way, words in (("disk", "read from disk"), ("host", "in memory")):
        assert run("train", place, way, "--epoch", "1", "--stack_in_memory", way) == 0
        events, _ = read_events(place / way / EVENTS)
        assert any(f"images {words}" in event["text"] for event in events if event["type"] == "message")
    assert digest(place / "disk") == digest(place / "host")
    assert run("preprocess", place, "whole") == run("preprocess", place, "pieces", "--downsample_batch", "7") == 0
    assert digest(place / "whole") == digest(place / "pieces")
