"""The data of a training, read and checked: particles, Gaussians, configuration, images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.ctf import load_ctf
from gaussianem_core.imaging.pose import load_poses
from gaussianem_core.io.image_rows import load_images, load_particles
from gaussianem_core.io.image_stack import ImageStack
from gaussianem_core.job.events import JobLog
from gaussianem_core.job.input_paths import resolve_input
from gaussianem_core.model.configuration import Configuration, load_configuration
from gaussianem_core.model.gaussians import Gaussians, load_gaussians, load_mask
from gaussianem_core.options import TrainOptions
from gaussianem_core.ranges import refuse_rows
from gaussianem_core.runtime.device import distributed
from gaussianem_core.training.forward_model import Views
from gaussianem_core.training.grouping import Grouping
from gaussianem_core.training.image_feed import PATIENCE_SECONDS, ImageFeed

_ONE_RUN = "Use the files of one preprocess run."
LOOKED_AT = 64
"""Number of images, spread over the stack, that are checked before a training begins."""


@dataclass
class Problem:
    """The data of a training, on the compute device: N rows (images in a pose), box D, M Gaussians.

    ``movable`` (M,) bool: Gaussians that may move; None for all. ``image`` (N,): number in the stack of the image that
    each row shows (see ``image_rows``). ``group``: the particle that each row shows.
    """

    configuration: Configuration
    gaussians: Gaussians
    movable: torch.Tensor | None  # (M,) bool
    views: Views
    feed: ImageFeed
    image: np.ndarray
    group: Grouping

    @property
    def count(self) -> int:
        """Number of rows: images, with a row for each symmetry mate."""
        return len(self.views.ctf)

    @property
    def unit(self) -> np.ndarray:
        """Independent observation of each row (N,), numbered from 0: the rows of one particle, and copies of one image
        or particle in poses related by symmetry, share a number."""
        if self.group.single:
            return self.image
        # Copies of a particle in other poses show the same images: one stands for all.
        shown = self.image[self.group.images(self.group.first).cpu().numpy()]
        return np.unique(shown, return_inverse=True)[1].reshape(-1)

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.views.ctf.device

    def subset(self, rows: np.ndarray) -> Problem:
        """The problem of the rows with indices ``rows`` (n,), which must be whole particles."""
        chosen = torch.from_numpy(rows).to(self.device)
        feed, image = self.feed.subset(rows), np.unique(self.image[rows], return_inverse=True)[1].reshape(-1)
        views, group = self.views.rows(chosen), self.group.rows(chosen)
        return Problem(self.configuration, self.gaussians, self.movable, views, feed, image, group)


def load_problem(options: TrainOptions, device: torch.device, log: JobLog, stack_path: Path) -> Problem:
    """Read the files of a training and check them against each other.

    Raises InputError naming the file or option if a file cannot be read, counts, boxes or shifts do not fit, images are
    constant, or there are fewer than two images or particles; ResourceError if the images cannot be kept on the GPU;
    AbortRequested if a stop is asked for while it waits for images.
    """
    configuration = load_configuration(resolve_input(options, "cfg"))
    gaussians = load_gaussians(resolve_input(options, "point"), configuration.scale_min, configuration.scale_max)
    movable = None
    if options.mask:
        movable = load_mask(resolve_input(options, "mask"), gaussians, configuration)
        log.message(f"{int(movable.sum())} of {len(gaussians)} Gaussians may move")
    rotations, shifts = load_poses(resolve_input(options, "pose"))
    parameters = load_ctf(resolve_input(options, "ctf"))
    stack = ImageStack.from_file(stack_path)
    box = configuration.box
    if stack.headers[0].shape[1] != box:
        raise InputError(
            "particle_name",
            f"must have the configuration's box {box}",
            stack.headers[0].shape[1],
            "Use the stack and cfg.json of one preprocess run.",
        )
    shown = load_images(resolve_input(options, "cfg").parent)
    rows = len(stack) if shown is None else len(shown)
    if shown is not None and shown.max(initial=-1) + 1 != len(stack):
        raise InputError("particle_name", f"must hold the {shown.max() + 1} images of images.npy", len(stack), _ONE_RUN)
    for name, count in (("pose", len(rotations)), ("ctf", len(parameters))):
        if count != rows:
            rule = f"must have one row for each of the {rows} {'images' if shown is None else 'rows of images.npy'}"
            raise InputError(name, rule, count, _ONE_RUN)
    if len(stack) < 2:
        raise InputError("particle_name", "must hold at least two images", len(stack), "Give more particles.")
    refuse_flat(stack)
    refuse_far(shifts, box)
    # Box and pixel size of older files are those before downsampling: the physical length is what counts.
    parameters[:, 1] *= parameters[:, 0] / box
    feed = ImageFeed(
        partial(stack.read, half=device.type == "cuda"),
        len(stack),
        box,
        configuration.invert_contrast,
        device,
        options.stack_in_memory,
        psutil.virtual_memory().available,
        lambda done: log.progress("load images", done, len(stack)),
        shown,
        lambda seconds: waiting(seconds, log),
    )
    views = Views(*(torch.from_numpy(a).to(device) for a in (rotations, shifts, parameters)))
    if movable is not None:
        movable = movable.to(device)
    image = np.arange(rows) if shown is None else shown
    particle = load_particles(resolve_input(options, "cfg").parent, rows)
    group = Grouping.of(np.arange(rows) if particle is None else particle, device)
    if group.count < 2:
        raise InputError("particles.npy", "must tell at least two particles apart", group.count, _ONE_RUN)
    return Problem(configuration, gaussians.to(device), movable, views, feed, image, group)


def waiting(seconds: float, log: JobLog) -> None:
    """Log that no image has come for ``seconds``, at first and every minute. Raises AbortRequested if asked to stop."""
    if seconds == PATIENCE_SECONDS or seconds % 60 == 0:
        log.message(f"waiting for the disk: no images for {seconds:.0f} s", "warning")
    if distributed().world == 1:  # several processes stop together or not at all
        log.check_abort()


def mean_per_unit(values: np.ndarray, unit: np.ndarray) -> np.ndarray:  # (N, ...), (N,) -> (M, ...)
    """Mean over the rows of each of M observations (see ``Problem.unit``), in the order of their numbers."""
    if len(np.unique(unit)) == len(unit):
        return values
    _, place, count = np.unique(unit, return_inverse=True, return_counts=True)
    total = np.zeros((len(count), *values.shape[1:]))
    np.add.at(total, place.reshape(-1), values)
    return np.asarray(total / count.reshape(-1, *[1] * (values.ndim - 1)))


def refuse_flat(stack: ImageStack) -> None:
    """Raise InputError if LOOKED_AT images, spread over the stack, are all constant."""
    rows = np.unique(np.linspace(0, len(stack) - 1, LOOKED_AT).astype(np.int64))
    images = stack.read(rows).astype(np.float64)
    spread = images.std(axis=(1, 2))
    if not (spread > 1e-6 * np.abs(images).max(axis=(1, 2))).any():  # rounding alone
        raise InputError(
            "particle_name",
            "must hold images that are not constant",
            f"standard deviations up to {spread.max():.3g} in {stack.headers[0].path}",
            "Run preprocess again, and check the particles' own stacks.",
        )


def refuse_far(shifts: np.ndarray, box: int) -> None:  # (N, 2) pixels
    """Raise InputError for shifts of more than two boxes, which leave the particle far outside its image."""
    rule, remedy = f"must lie within two boxes of {box} px", "Run preprocess again: shifts are in pixels of the stack."
    refuse_rows(np.abs(shifts).max(axis=1) > 2 * box, "poses.npy", "shift", rule, shifts, remedy)


def resolve_stack(options: TrainOptions) -> Path:
    """Path of the particle stack; the ending .mrcs may be left out, as in the published manual.

    Raises InputError if there is no such file.
    """
    if Path(options.particle_name).suffix in (".mrcs", ".mrc"):
        return resolve_input(options, "particle_name")
    return resolve_input(options.model_copy(update={"particle_name": options.particle_name + ".mrcs"}), "particle_name")
