"""Trajectories on disk: a Trajectory job (MRC series, Gaussians, latents, ChimeraX script) and movies. No Qt."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gaussianem_core.errors import InputError
from gaussianem_core.io.chimerax import write_trajectory_script
from gaussianem_core.io.latents import write_latent_rows
from gaussianem_core.io.mrc import write_map
from gaussianem_core.runtime.files import replacing
from gaussianem_gui.explorer.decoder_client import Callbacks, Consensus, Decoded, DecoderClient
from gaussianem_gui.explorer.sources import Sources
from gaussianem_gui.project.job import Job
from gaussianem_gui.project.project import Project

Frame = np.ndarray  # (H, W, 3) uint8
WAIT_SECONDS = 900.0


def decode_all(sources: Sources, z: np.ndarray, device: str = "auto") -> tuple[Consensus, list[Decoded]]:
    """Decode the rows of ``z`` (P, zdim) at the model's own box, in a separate worker. Raises InputError on failure."""
    import queue

    found: queue.Queue[Consensus | Decoded | str] = queue.Queue()
    decoder = DecoderClient(Callbacks(found.put, found.put, found.put, lambda _n, text: found.put(text)))
    decoder.start(sources, device)
    answers: list[Decoded] = []
    model: Consensus | None = None
    try:
        decoder.request(z, channel="export")
        while len(answers) < len(z):
            try:
                item = found.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                item = f"no answer within {WAIT_SECONDS:g} s"
            if isinstance(item, str):
                raise InputError("decoder", "must decode the path", item, "See the job's log.")
            if isinstance(item, Consensus):
                model = item
            else:
                answers.append(item)
    finally:
        decoder.close()
    assert model is not None
    return model, answers


def export_series(
    project: Project, sources: Sources, z: np.ndarray, level: float, note: str = "", *, volumes: bool = True
) -> Job:  # z (P, zdim)
    """Write a Trajectory job: vol_NNN.mrc at the full box, z.txt (input of Decode and Morph), play.cxc; only z.txt
    without ``volumes``.

    ``level``: contour level of the script. Raises InputError if the decoder fails.
    """
    model, answers = decode_all(sources, z) if volumes else (None, [])

    def write(directory: Path) -> list[tuple[str, str]]:
        write_latent_rows(z, directory / "z.txt")
        made = [("z.txt", "trajectory")]
        if model is None:
            return made
        names = []
        for answer in answers:
            assert answer.volume is not None
            names.append(f"vol_{answer.index + 1:03d}.mrc")
            write_map(directory / names[-1], answer.volume, model.pixel_size_angstrom, model.origin_angstrom)
        write_trajectory_script(directory / "play.cxc", names, level, "Trajectory")
        return [*made, ("play.cxc", "script"), *((name, "volume") for name in names)]

    inputs = []
    for path in filter(None, (sources.weights, sources.latents)):
        relative = os.path.relpath(path, project.root)
        if not relative.startswith(".."):
            inputs.append(relative)
    return project.record("Trajectory", write, inputs=inputs, note=note)


def export_movie(target: Path, frames: Sequence[Frame], rate: int = 20, swing: bool = False) -> Path:
    """Write frames (H, W, 3 or 4) uint8 as .mp4 (H.264, if imageio-ffmpeg is installed) or .gif, atomically.

    ``rate``: frames a second; ``swing`` adds the frames in reverse, so that the movie loops without a jump. Raises
    InputError for fewer than two frames, another ending, or .mp4 without imageio-ffmpeg.
    """
    pictures = [np.ascontiguousarray(frame[..., :3]) for frame in frames]
    if len(pictures) < 2:
        raise InputError("movie", "must have at least two frames", len(pictures), "Decode a path first.")
    if swing:
        pictures += pictures[-2:0:-1]
    height, width = (n - n % 2 for n in pictures[0].shape[:2])  # H.264 wants even sides
    pictures = [p[:height, :width] for p in pictures]
    ending = target.suffix.lower()
    if ending not in (".gif", ".mp4"):
        raise InputError("movie", "must end in .mp4 or .gif", target.name, "Choose one of these.")
    with replacing(target) as temporary:
        (_write_gif if ending == ".gif" else _write_mp4)(temporary, pictures, rate)
    return target


def _write_gif(path: Path, pictures: Sequence[Frame], rate: int) -> None:
    from PIL import Image

    images = [Image.fromarray(p).convert("P", palette=Image.Palette.ADAPTIVE, colors=128) for p in pictures]
    images[0].save(path, format="GIF", save_all=True, append_images=images[1:], duration=round(1000 / rate), loop=0)


def _write_mp4(path: Path, pictures: Sequence[Frame], rate: int) -> None:
    try:
        import imageio_ffmpeg
    except ImportError:
        raise InputError(
            "movie", "needs imageio-ffmpeg for .mp4", "not installed", "pip install imageio-ffmpeg, or write a .gif."
        ) from None
    height, width = pictures[0].shape[:2]
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (width, height),
        fps=rate,
        codec="libx264",
        pix_fmt_out="yuv420p",
        quality=8,
        macro_block_size=2,
        output_params=["-f", "mp4", "-movflags", "+faststart"],
    )
    writer.send(None)
    try:
        for picture in pictures:
            writer.send(np.ascontiguousarray(picture))
    finally:
        writer.close()
