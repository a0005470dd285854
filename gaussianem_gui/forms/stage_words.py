"""Stages and messages of the engine in plain words. No Qt here.

What is not known here is shown as the engine says it.
"""

from __future__ import annotations

import re

STAGES = {
    "load images": "Load the images",
    "linear model": "Find what varies",
    "motion or composition": "Motion, or parts that come and go?",
    "all particles": "Find what varies, from all particles",
    "teach the decoder": "Teach the network what was found",
    "encode": "Place the particles",
    "without components": "Fit a model in which nothing varies",
    "other valleys": "Try other places for each particle",
    "train": "Train",
    "refine latents": "Refine the latents",
    "teach the encoder": "Teach the encoder",
    "fit to the map": "Fit Gaussians to the map",
    "crop images": "Crop the images",
    "consensus": "Fit Gaussians to the images",
    "fit consensus": "Fit Gaussians to the images",
    "consensus fsc": "Compare with the map",
    "UMAP": "Draw the UMAP",
    "class volumes": "Decode the classes",
    "half sets": "Compare the half sets",
    "motions": "Work out how each particle has moved",
    "images": "Put the images together",
    "states": "Put the images of each state together",
    "subtract": "Subtract from the images",
    "FSC": "Compare volumes",
    "simulate": "Simulate the images",
    "decode": "Decode volumes",
    "morph": "Morph the model",
}
_GAIN = r"it gains (?P<gain>[-\d.]+) nats a held-out particle, standard error (?P<error>[\d.]+)"
_MESSAGES = (
    (
        r"linear model: (?P<real>\d+) of (?P<all>\d+) components are real, [-\d.]+ nats a held-out particle",
        "{real} of {all} directions of variation are real: they describe images that were held out, too",
    ),
    (
        rf"motion is real: {_GAIN}, over changes of composition alone",
        "Parts of the molecule move: held-out images fit better with motion than with parts that come and go alone "
        "(log-likelihood a particle {gain} ± {error} higher)",
    ),
    (
        rf"composition alone changes, motion is left out: {_GAIN}",
        "Parts come and go, and nothing moves beyond that: motion fits held-out images no better "
        "(log-likelihood a particle {gain} ± {error} higher)",
    ),
    (
        r"population of latents: (?P<count>\d+) Gaussians, [-\d.]+ nats a held-out particle",
        "The particles' places in latent space are described by {count} groups",
    ),
)


def stage_words(stage: str) -> str:
    """A stage as the window calls it; one that is not known, with a capital."""
    if (pc := re.fullmatch(r"trajectory pc(\d+)", stage)) is not None:
        return f"Decode along PC {pc[1]}"
    return STAGES.get(stage, stage[:1].upper() + stage[1:])


def message_words(text: str) -> str:
    """A message of the engine in plain words; one that is not known as it is, with Å for an A after a number."""
    for pattern, words in _MESSAGES:
        if (found := re.fullmatch(pattern, text)) is not None:
            return words.format(**found.groupdict())
    return re.sub(r"(?<=\d) A\b", " Å", text)  # in logs, which may be read where there is no such letter
