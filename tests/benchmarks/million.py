"""A whole analysis of many particles through the public commands: seconds and memory of each stage, as a table.

    million.py --adk adk_tmd.npz --particles 2000 --box 64                     tried on a CPU
    million.py --adk adk_tmd.npz --stages simulate preprocess --raw /dev/shm/million
    million.py --adk adk_tmd.npz --stages train --gpus 4
    million.py --adk adk_tmd.npz --stages train --options train="--epoch 2 --stack_in_memory host" --place host
    million.py --adk adk_tmd.npz --stages train --options train="--epoch 2 --stack_in_memory disk" --place disk
    million.py --adk adk_tmd.npz --stages analyze reconstruct evaluate

reconstruct makes one map of all images with their motion undone; evaluate compares volumes and latents with the
simulated truth, and prints its own table before its row. Each stage is a process of its own; later calls find what
earlier ones left in --work. Host memory is the most that the process had resident (VmHWM); GPU memory is the most that
``nvidia-smi`` saw in use on the first GPU (of CUDA_VISIBLE_DEVICES, if set), looked at twice a second. Images a second
are those of training's epochs, with their checkpoints, without what comes before and after.

A million images of box 128 take 33 GB in float16, and preprocess writes them once more: --raw puts the simulated ones
elsewhere. The explorer with a million particles is measured by ``explorer.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

STAGES = ("simulate", "preprocess", "train", "analyze", "reconstruct", "evaluate")
LOOK_SECONDS = 0.5


def main() -> int:
    """Run the stages asked for and print a row for each; stops at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adk", type=Path, required=True, help="trajectory (.npz with xyz and weight)")
    parser.add_argument("--particles", type=int, default=1_000_000)
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--apix", type=float, default=1.0)
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--work", type=Path, default=Path("/tmp/million"))
    parser.add_argument("--raw", type=Path, help="folder of the simulated images (by default in --work)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--gpus", type=int, default=1, help="of training")
    parser.add_argument("--place", default="train", help="name of the training's folder")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--options", nargs="*", default=[], help='more for a stage: train="--epoch 2"')
    given = parser.parse_args()
    more = {name: shlex.split(words) for name, words in (entry.split("=", 1) for entry in given.options)}
    given.work.mkdir(parents=True, exist_ok=True)
    print("| stage | seconds | particles/s | host GiB | GPU GiB | images/s of the epochs |\n|---|---|---|---|---|---|")
    for stage in given.stages:
        words = [*command(stage, given), "--device", given.device, *more.get(stage, [])]
        code, seconds, host, gpu = measured(words, None if stage == "evaluate" else subprocess.DEVNULL)
        if code:
            print(f"{stage} ended with exit code {code}", file=sys.stderr)
            return code
        speed = images_per_second(given.work / given.place / "events.jsonl") if stage == "train" else ""
        rate = f"{given.particles / seconds:,.0f}"
        print(f"| {stage} | {seconds:.1f} | {rate} | {host:.2f} | {gpu} | {speed} |", flush=True)
    return 0


def command(stage: str, given: argparse.Namespace) -> list[str]:
    """The public command of a stage, on what the one before it wrote."""
    raw, work, train = given.raw or given.work / "raw", given.work, given.work / given.place
    program = [sys.executable, "-m", "gaussianem_core", stage]
    if stage == "simulate":
        sizes = f"--particles {given.particles} --box {given.box} --apix {given.apix} --snr {given.snr} --float16"
        return [*program, "--model", str(given.adk), "--job_dir", str(raw), "--overwrite", *sizes.split()]
    if stage == "preprocess":
        files = ["--star_file", str(raw / "particles.star"), "--consensus_map", str(raw / "consensus.mrc")]
        size = ["--downsample_size", str(given.box), "--float16", "--overwrite"]
        return [*program, "--source_dir", str(raw), *files, "--job_dir", str(work / "pre"), *size]
    if stage == "train":
        if given.gpus > 1:
            spread = f"-m torch.distributed.run --standalone --nproc_per_node {given.gpus} -m gaussianem_core train"
            program = [sys.executable, *spread.split()]
        return [*program, "--source_dir", str(work / "pre"), "--job_dir", str(train), "--overwrite"]
    weights = max(
        (p for p in train.glob("weights.*.pkl") if p.name.count(".") == 2), key=lambda p: int(p.name.split(".")[1])
    )
    files = ["--latent", str(weights.with_suffix(".output.pkl")), "--model_weight", str(weights)]
    if stage == "evaluate":  # knows the corrected poses beside the latents
        files += ["--truth", str(raw / "truth.npz"), "--output", str(work / stage)]
        return [*program, "--source_dir", str(work / "pre"), *files]
    more = ["--undo_motion"] if stage == "reconstruct" else []
    if more and (train / "particles.star").exists():  # poses that the training corrected
        more += ["--poses", str(train / "particles.star")]
    return [*program, "--source_dir", str(work / "pre"), *files, *more, "--job_dir", str(work / stage), "--overwrite"]


def measured(words: list[str], output: int | None) -> tuple[int, float, float, str]:
    """Exit code, seconds, the largest resident memory (GiB) and the largest GPU memory (GiB, or empty) of a command.

    ``output``: where it prints, as for ``subprocess.Popen``.
    """
    most, over = [0.0], threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            most[0] = max(most[0], gpu_memory())

    watcher = threading.Thread(target=look, daemon=True)
    if shutil.which("nvidia-smi"):
        watcher.start()
    begin = time.perf_counter()
    with subprocess.Popen(words, stdout=output) as process:
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
    over.set()
    gpu = f"{most[0]:.1f}" if watcher.is_alive() else ""
    return process.returncode, seconds, usage.ru_maxrss / 2**20, gpu


def gpu_memory() -> float:
    """Memory in use on the first GPU (GiB)."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", f"--id={first}"]
    try:
        return float(subprocess.run(query, capture_output=True, text=True, timeout=10).stdout.split()[0]) / 1024
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return 0.0


def images_per_second(events: Path) -> str:
    """Images in the epochs of a training over the time that its progress there spans, and the seconds before the first
    of them."""
    entries = [json.loads(line) for line in events.read_text().splitlines()]
    start, stage, images, seconds, first = entries[0]["t"], None, 0, 0.0, None
    before: dict[str, float] | None = None
    for entry in entries:
        if entry.get("type") != "progress":
            continue
        if entry["stage"] != "load images" and first is None:
            first = entry["t"] - start
        if entry["stage"] == "train" and stage == "train" and before is not None and entry["done"] > before["done"]:
            images += entry["done"] - before["done"]
            seconds += entry["t"] - before["t"]
        stage, before = entry["stage"], entry
    return f"{images / seconds:,.0f}; first progress after {first:.1f} s" if seconds and first is not None else ""


if __name__ == "__main__":
    raise SystemExit(main())
