"""A stand-in for the engine that reports like a real training: metrics, probes, volumes; quick, without torch.

Called like the engine, after the path of a JSON file with ``seconds`` (how long a job takes), ``fail`` (a reason) and
``hold``: a training does not end, whatever its speed, before the file says that it need not wait any longer.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from gaussianem_core.errors import AbortRequested
from gaussianem_core.io.mrc import write_map
from gaussianem_core.job.events import JobLog

EPOCHS, STEPS = 3, 20
GAUSSIANS = (
    "ply\nformat binary_little_endian 1.0\nelement vertex 200\n"
    + "".join(f"property float {name}\n" for name in ("x", "y", "z", "density"))
    + "end_header\n"
)


def blob(shift: float, box: int = 24) -> np.ndarray:
    """A small volume whose blob lies ``shift`` voxels from the centre."""
    z, y, x = np.mgrid[:box, :box, :box] - box // 2
    return np.exp(-(z**2 + y**2 + (x - shift) ** 2) / 18).astype(np.float32)


def train(log: JobLog, directory: Path, wanted: Path, options: dict) -> None:
    seconds = float(json.loads(wanted.read_text())["seconds"])
    rng = np.random.default_rng(0)
    log.plan({"linear model": 1, "train": 3, "teach the encoder": 1})
    log.progress("linear model", 1, 1, every=0.0)
    log.message("linear model: 3 of 4 components are real, 21.51 nats a held-out particle")
    for step in range(EPOCHS * STEPS):
        epoch = (step + 1) / STEPS
        log.metric("train", step, epoch, loss=float(options["batch"]) / (1 + step), kl=0.01, images_per_second=1234.0)
        log.progress("train", step + 1, EPOCHS * STEPS, "steps", every=0.0)
        print(f"step {step}", flush=True)
        if epoch == int(epoch):
            path = directory / f"probe.{int(epoch)}.npz"
            images = rng.normal(size=(3, 16, 16))
            np.savez(path, z=rng.normal(size=(30, 4)), epoch=int(epoch), images=images, renderings=images)
            log.artifact("probe", path)
        time.sleep(seconds / (EPOCHS * STEPS))
    while json.loads(wanted.read_text())["hold"]:
        log.progress("train", EPOCHS * STEPS, EPOCHS * STEPS, "steps", every=0.0)  # asks whether to stop, too
        time.sleep(0.1)
    for name, kind in (("weights.2.pkl", "checkpoint"), ("weights.2.output.pkl", "latents")):
        (directory / name).write_text("x")
        log.artifact(kind, name)


def preprocess(log: JobLog, directory: Path) -> None:
    for name, kind in (
        ("img_stack.mrcs", "stack"),
        ("poses.npy", "poses"),
        ("ctf.npy", "ctf"),
        ("cfg.json", "configuration"),
        ("particles.star", "particles"),
    ):
        (directory / name).write_text("x")
        log.artifact(kind, name)
    points = np.random.default_rng(0).normal(size=(200, 4)).astype("<f4") / 4
    (directory / "point_cloud.ply").write_bytes(GAUSSIANS.encode() + points.tobytes())
    log.artifact("gaussians", "point_cloud.ply")


def analyze(log: JobLog, directory: Path) -> None:
    (directory / "pc1").mkdir(exist_ok=True)
    for number in range(4):
        write_map(directory / f"pc1/vol_{number}.mrc", blob(number - 1.5), 2.0)
    log.artifact("volume_series", "pc1", label="PC 1")
    write_map(directory / "consensus.mrc", blob(0), 2.0)
    log.artifact("volume", "consensus.mrc", label="consensus")
    points = np.random.default_rng(0).normal(size=(200, 4)).astype("<f4") / 4
    (directory / "moved.ply").write_bytes(GAUSSIANS.encode() + points.tobytes())
    log.artifact("gaussians", "moved.ply", label="Gaussians")
    np.savez(directory / "latents.npz", z=np.random.default_rng(0).normal(size=(300, 4)), labels=np.arange(300) % 3)
    log.artifact("latents", "latents.npz")
    (directory / "summary.json").write_text(json.dumps({"particles": 300, "variance": [0.5, 0.2]}))
    log.artifact("summary", "summary.json")


def main(argv: list[str]) -> int:
    wanted = Path(argv[0])
    fail = json.loads(wanted.read_text())["fail"]
    job_type = next(word for word in argv if word in ("preprocess", "train", "analyze", "simulate", "decode"))
    options = json.loads(Path(argv[argv.index("--options") + 1]).read_text())
    directory = Path(argv[argv.index("--job_dir") + 1])
    try:
        with JobLog(directory, ["gaussianem", *argv], "0") as log:
            log.message(f"{job_type} begins")
            if fail:
                raise RuntimeError(fail)
            if job_type == "train":
                train(log, directory, wanted, options)
            elif job_type == "preprocess":
                preprocess(log, directory)
            elif job_type == "analyze":
                analyze(log, directory)
    except AbortRequested:
        return 3
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
