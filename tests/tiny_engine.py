"""A stand-in for the engine that is quick to start: real events, heartbeat and exit files, no torch.

Called like the engine: JOB_TYPE --options FILE --job_dir DIR. What it does is said by the option ``output``:
"ok", "sleep:SECONDS", "fail:TEXT", "memory", "kill" (by its own hand), "exit:CODE", "deaf" (obeys no signal).
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from gaussianem_core.errors import AbortRequested, InputError
from gaussianem_core.job.events import JobLog

OUTPUTS = {
    "preprocess": {
        "img_stack.mrcs": "stack",
        "poses.npy": "poses",
        "ctf.npy": "ctf",
        "point_cloud.ply": "gaussians",
        "cfg.json": "configuration",
        "particles.star": "particles",
    },
    "train": {
        "weights.0.pkl": "checkpoint",
        "weights.0.output.pkl": "latents",
        "weights.1.pkl": "checkpoint",
        "weights.1.output.pkl": "latents",
    },
    "simulate": {"particles.star": "particles", "consensus.mrc": "map"},
    "analyze": {"volume.mrc": "volume"},
}


def act(word: str, log: JobLog) -> None:
    verb, _, argument = word.partition(":")
    if verb == "sleep":
        end = time.monotonic() + float(argument)
        while (left := end - time.monotonic()) > 0:
            log.progress("work", float(argument) - left, float(argument), "s")
            log.check_abort()
            time.sleep(0.02)
    elif verb == "deaf":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        log.message("deaf")
        time.sleep(60)
    elif verb == "fail":
        raise InputError("option output", "must be good", "bad", argument)
    elif verb == "memory":
        raise MemoryError("CUDA out of memory. Tried to allocate 20 GiB")
    elif verb == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "exit":
        print("the last line of the error output", file=sys.stderr)
        os._exit(int(argument))


def main(argv: list[str]) -> int:
    job_type, options = argv[0], json.loads(Path(argv[argv.index("--options") + 1]).read_text())
    directory = Path(argv[argv.index("--job_dir") + 1])
    print(f"{job_type} {options['output']}", flush=True)
    try:
        with JobLog(directory, ["gaussianem", *argv], "0") as log:
            log.metric("train", 1, 0.5, loss=1.25)
            act(options["output"], log)
            for name, kind in OUTPUTS.get(job_type, {}).items():
                (directory / name).write_text(job_type)
                log.artifact(kind, name)
    except AbortRequested:
        return 3
    except InputError:
        return 2
    except MemoryError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
