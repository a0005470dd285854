"""What to do after a job: its natural next steps in words. No Qt here."""

from __future__ import annotations

from dataclasses import dataclass

from gaussianem_core.options import JOB_OPTIONS
from gaussianem_gui.project.job import State

# What the step is for, as a button says it, and why.
STEPS = {
    "preprocess": ("Prepare the particles", "Fourier-crop the images and place the consensus Gaussians."),
    "train": ("Train on these particles", "Learn how the molecule moves: one latent per particle."),
    "analyze": ("Analyze the latents", "Classes, principal components, and volumes along them."),
    "decode": ("Decode volumes", "Volumes at latents or particles of your choice."),
    "simulate": ("Simulate particles", "Images with known truth, to try the method."),
    "evaluate": ("Compare with the truth", "FSC and latent error against the simulation."),
    "reconstruct": ("Reconstruct a map", "Half maps, FSC and a sharpened map, from the original images."),
    "morph": ("Morph an atomic model", "Carry a model fitted to the consensus along a trajectory."),
    "select": ("Select particles", "Take a part of the particles back to RELION or cryoSPARC."),
    "mask": ("Make a mask", "Limit motion to one region."),
}
PICTURES = {
    "simulate": "flask",
    "preprocess": "job-preprocess",
    "train": "job-train",
    "analyze": "job-analyze",
    "decode": "job-decode",
    "evaluate": "job-evaluate",
    "reconstruct": "job-reconstruct",
    "morph": "job-morph",
    "select": "job-select",
    "mask": "job-mask",
    "import": "job-import",
}
# What a new user may start with, in the order of the work.
ORDER = ("preprocess", "train", "analyze", "decode", "reconstruct", "morph", "simulate", "evaluate")


# Of the job types that could read what a job made, those that are its natural continuation.
NATURAL = {
    "import": ("preprocess",),
    "simulate": ("preprocess",),
    "preprocess": ("train", "reconstruct"),
    "train": ("analyze", "decode", "evaluate"),
    "reconstruct": ("preprocess",),
    "analyze": ("decode", "morph", "reconstruct"),
    "decode": ("morph",),
    "select": ("reconstruct", "preprocess"),
    "mask": ("train",),
    "trajectory": ("morph", "decode"),
}


# The job type whose output a new job usually reads.
BEFORE = {
    "train": "preprocess",
    "analyze": "train",
    "decode": "train",
    "morph": "train",
    "evaluate": "train",
    "reconstruct": "preprocess",
    "preprocess": "simulate",
}


@dataclass(frozen=True)
class NextStep:
    """A suggestion: ``title`` as its button says it, ``why`` in a sentence; ``kind`` is job (a new job of
    ``job_type``), results, report, explore, log, continue or clone."""

    kind: str
    title: str
    why: str
    job_type: str = ""


def purpose(job_type: str) -> str:
    """What a job type makes of what, in a line: the first of its options' documentation."""
    return (JOB_OPTIONS[job_type].__doc__ or "").strip().split("\n")[0].replace("->", "→")


def picture(job_type: str) -> str:
    """Name of a job type's icon."""
    return PICTURES.get(job_type, "job-other")


def next_steps(job_type: str, state: State, following: list[str], has_latents: bool = False) -> list[NextStep]:
    """At most three next steps after a job of ``job_type`` in ``state``, the likeliest first. ``following`` are job
    types its outputs can feed, ``has_latents`` whether they are latents, of which Import may have another program's."""
    if state is State.FAILED:
        return [
            NextStep("log", "Read the error", "The end of the log says what went wrong."),
            NextStep("clone", "Correct and run again", "A copy with the same options, to change what was wrong."),
        ]
    if state in (State.ABORTED, State.LOST):
        steps = (
            [NextStep("continue", "Go on from where it stopped", "Continues in the same directory.")]
            if (job_type == "train")
            else []
        )
        return [*steps, NextStep("clone", "Run again", "A copy with the same options.")]
    if state is State.SCHEDULED:
        return []
    steps = [
        NextStep("job", *STEPS[name], job_type=name)
        for name in NATURAL.get(job_type, following)
        if name in following and name in STEPS
    ]
    if state is State.RUNNING:
        return [NextStep(s.kind, s.title, "Waits until this job has finished.", s.job_type) for s in steps[:1]]
    if job_type in ("analyze", "decode", "morph", "trajectory", "reconstruct"):
        steps.insert(0, NextStep("results", "Look at the volumes", "In 3D, in this window."))
    if job_type == "analyze":
        steps.insert(1, NextStep("report", "Open the report", "One page for any browser, to pass on."))
    if job_type in ("train", "analyze") or has_latents:
        why = "Click a particle and see the molecule there; select particles and take them back."
        steps.insert(1 if job_type == "train" else 0, NextStep("explore", "Explore the latents", why))
    return steps[:3]
