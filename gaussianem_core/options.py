"""Every option of every job, written once.

One frozen model per job type. The command line, the forms of the desktop application, ``options.json`` and the
guide's tables are all made from these models; no other file spells an option again. No torch in this room.

Each field carries, beside pydantic's type, default and bounds, a ``json_schema_extra`` with

``group``     heading under which a form shows it
``unit``      unit of the value, or None
``widget``    hint for a form: "file", "directory", "job_output", "gpu", "mask" or None
``filter``    file name patterns of a file picker, e.g. "*.star *.cs"
``produces``  for inputs: the artifact kind of an earlier job that fills this field (see ``events.ARTIFACTS``)
``advanced``  folded away in a form
``alias``     short flag, e.g. "-s"
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gaussianem_core.errors import InputError
from gaussianem_core.ranges import RANGES
from gaussianem_core.runtime.readers import read_json_object

Device = Literal["auto", "cpu", "cuda"]
Projector = Literal["auto", "reference", "triton", "cpu", "xray"]
GroupBy = Literal["auto", "none", "rlnGroupName"]
LATENTS_OF_RECIPE = {"default": "linear", "published": "encoder"}
"""Where the latents of each recipe of train come from, unless ``latents`` says otherwise."""


LARGEST_SEED = 2**32 - 1  # of NumPy's, scikit-learn's and torch's generators alike
LARGEST_WEIGHT = 1e6  # of a term of a loss
LARGEST_BOX = 16384
LARGEST_GPU = 1023


def option(
    default: Any,
    help: str,
    *,
    group: str,
    unit: str | None = None,
    widget: str | None = None,
    filter: str | None = None,
    produces: str | None = None,
    advanced: bool = False,
    alias: str | None = None,
    **bounds: Any,
) -> Any:
    """Declare one option: default (``...`` = required), help text, form hints and pydantic bounds (ge, le, gt)."""
    hints = {"group": group, "unit": unit, "widget": widget, "filter": filter, "produces": produces}
    return Field(default, description=help, json_schema_extra={**hints, "advanced": advanced, "alias": alias}, **bounds)


def within(name: str) -> dict[str, Any]:
    """Bounds of an option that is a value of a microscope or an image (see ``ranges``)."""
    return {"ge": RANGES[name].low, "le": RANGES[name].high}


def lacking(what: str, unit: str | None = None, ranged: str | None = None) -> Any:
    """An option that gives a value of the microscope which particle files may lack; ``ranged``: its name in ``ranges``,
    where that is not ``what``."""
    help = f"{what}, for particle files that lack it; checked when they have it"
    return option(None, help, group="Images", unit=unit, advanced=True, **within(ranged or what))


class JobOptions(BaseModel):
    """What every job has: where its output goes and how it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    job_type: ClassVar[str] = ""
    title: ClassVar[str] = ""

    job_dir: str = option(
        "",
        "write everything into this directory, whatever the output option says",
        group="Output",
        widget="directory",
        advanced=True,
    )
    overwrite: bool = option(False, "replace output that exists", group="Output", advanced=True)

    @field_validator("*")
    @classmethod
    def _nameable(cls, value: Any) -> Any:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and "\0" in text:
                raise ValueError("must not hold a NUL character, which no file's name has")
        return value

    def output_directory(self) -> Path:
        """Directory that receives everything this job writes."""
        if self.job_dir:
            return Path(self.job_dir)
        output = Path(getattr(self, "output", "") or self.job_type)
        return output if output.is_absolute() else Path(getattr(self, "source_dir", "") or ".") / output


class NetworkOptions(BaseModel):
    """Sizes of the encoder, the Gaussian encoder and the decoder (method: Train)."""

    qlayers: int = option(3, "hidden layers of the image encoder", group="Network", ge=1, le=16, advanced=True)
    qdim: int = option(1024, "nodes in image encoding layers", group="Network", ge=8, le=16384, advanced=True)
    zdim: int = option(10, "dimensions of the latent space", group="Network", ge=1, le=256)
    gaussian_kdim: int = option(128, "nodes in Gaussian encoding layers", group="Network", ge=8, le=4096, advanced=True)
    gaussian_klayers: int = option(
        3, "hidden layers of the Gaussian encoder", group="Network", ge=1, le=16, advanced=True
    )
    gaussian_embedding_dim: int = option(
        32, "dimensions of a Gaussian's embedding", group="Network", ge=2, le=1024, advanced=True
    )
    feature_kdim: int = option(
        128, "nodes in decoder layers of the concatenated feature", group="Network", ge=8, le=4096, advanced=True
    )
    feature_klayers: int = option(2, "hidden layers of the decoder", group="Network", ge=1, le=16, advanced=True)
    feature_dim: int = option(
        256, "nodes in the decoder's density and position heads", group="Network", ge=8, le=4096, advanced=True
    )


class ComputeOptions(BaseModel):
    """Where a job computes."""

    device: Device = option("auto", "compute on the GPU if there is one, or as told", group="Compute")
    projector: Projector = option(
        "auto",
        "which projector renders the Gaussians (auto picks the fastest that runs here)",
        group="Compute",
        advanced=True,
    )
    threads: int = option(0, "CPU threads; 0 takes all cores", group="Compute", ge=0, le=1024, advanced=True)


class PreprocessOptions(NetworkOptions, ComputeOptions, JobOptions):
    """Particles, poses, CTF and a consensus map -> stack, initial Gaussians and configuration."""

    job_type: ClassVar[str] = "preprocess"
    title: ClassVar[str] = "Preprocess"

    source_dir: str = option(
        ".", "directory of the project; other paths are relative to it", group="Input", widget="directory", alias="-s"
    )
    star_file: str = option(
        ...,
        "particles after refinement: RELION .star, cryoSPARC .cs or .csg",
        group="Input",
        widget="file",
        filter="*.star *.cs *.csg",
        produces="particles",
    )
    data_dir: str = option(
        "",
        "directory of the particle stacks, when the paths in the metadata are not found",
        group="Input",
        widget="directory",
    )
    passthrough: list[str] = option(
        [], "cryoSPARC passthrough .cs files, joined on uid", group="Input", widget="file", filter="*.cs", advanced=True
    )
    consensus_map: str = option(
        ...,
        "consensus density map of the refinement",
        group="Input",
        widget="file",
        filter="*.mrc *.map",
        produces="map",
    )
    group_by: GroupBy = option(
        "auto",
        "what tells which images show one particle, for tilt series: a column whose value the rows of one particle "
        "share; auto takes RELION 5's stacks of tilt images as such and every other row as a particle",
        group="Input",
        advanced=True,
    )
    size: int | None = option(
        None,
        "box of the particle images; checked when given, else read from them",
        group="Images",
        unit="px",
        ge=8,
        le=LARGEST_BOX,
        advanced=True,
    )
    apix: float | None = option(
        None,
        "pixel size of the particle images; checked when given, else read",
        group="Images",
        unit="A/px",
        advanced=True,
        **within("pixel size"),
    )
    voltage: float | None = lacking("acceleration voltage", "kV", "voltage")
    cs: float | None = lacking("spherical aberration", "mm")
    amplitude_contrast: float | None = lacking("amplitude contrast")
    downsample_size: int | None = option(
        None,
        "box after Fourier cropping; without it 128, or the box if that is smaller",
        group="Images",
        unit="px",
        ge=8,
        le=LARGEST_BOX,
    )
    downsample_batch: int = option(5000, "images cropped at once", group="Images", ge=1, le=1_000_000, advanced=True)
    symmetry: str = option(
        "C1",
        "point group of the molecule (C2, D2, T, O, I, ... as RELION has them): a row for each symmetry mate of a "
        "particle, so that each may differ",
        group="Images",
    )
    no_invert: bool = option(
        False, "the protein is dark in the images; without it they tell themselves", group="Images"
    )
    no_window: bool = option(
        False, "no soft round window on the images that the encoder sees", group="Images", advanced=True
    )
    float16: bool = option(False, "write the stack in half the space (MRC mode 12)", group="Images")
    map_thres: str = option(
        "auto", "contour level of the consensus map above which Gaussians are placed, or auto", group="Gaussians"
    )
    sample_interval: int | None = option(
        None,
        "grid spacing of the initial Gaussians in voxels of the map; without it 2 above a box of 256, else 1, but no "
        "finer than a pixel after downsampling, and wider where max_gaussians demands it at the automatic level",
        group="Gaussians",
        unit="voxel",
        ge=1,
        le=16,
    )
    max_gaussians: int = option(
        20000, "never more Gaussians than this", group="Gaussians", ge=16, le=200000, advanced=True
    )
    scale_min: float = option(0.5, "smallest width (sigma)", group="Gaussians", unit="px", gt=0, le=1000, advanced=True)
    scale_max: float = option(1.0, "largest width (sigma)", group="Gaussians", unit="px", gt=0, le=1000, advanced=True)
    epoch: int = option(2, "epochs of the consensus fit", group="Consensus fit", ge=0, le=1000)
    batch_size: int = option(
        4, "images per step of the consensus fit", group="Consensus fit", ge=1, le=65536, advanced=True
    )
    consensus_recipe: Literal["default", "published"] = option(
        "default",
        "to the map, then to images by the squared error; or the published L1 error alone",
        group="Consensus fit",
        advanced=True,
    )
    output: str = option(
        "preprocess", "name of the output folder under the project directory", group="Output", widget="directory"
    )
    seed: int = option(0, "seed of every random choice", group="Compute", ge=0, le=LARGEST_SEED, advanced=True)

    @field_validator("map_thres")
    @classmethod
    def _level(cls, value: str) -> str:
        with contextlib.suppress(ValueError):
            if value == "auto" or math.isfinite(float(value)):
                return value
        raise ValueError("must be a number or auto")

    @field_validator("size", "downsample_size")
    @classmethod
    def _even(cls, value: int | None) -> int | None:
        if value is not None and value % 2:
            raise ValueError("must be even")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> PreprocessOptions:
        if self.scale_max <= self.scale_min:
            raise ValueError(f"scale_max must exceed scale_min, {self.scale_min:g} (got {self.scale_max:g})")
        if self.size and self.downsample_size and self.downsample_size > self.size:
            raise ValueError(f"downsample_size must not exceed size, {self.size} (got {self.downsample_size})")
        if self.epoch == 0:
            remedy = "Leave it out, or give --epoch 1 or more."
            refuse_unused(self, ("batch_size", "consensus_recipe"), "without a consensus fit (epoch 0)", remedy)
        return self


class TrainOptions(ComputeOptions, JobOptions):
    """Prepared particles -> trained network and the latent of every particle."""

    job_type: ClassVar[str] = "train"
    title: ClassVar[str] = "Train"

    source_dir: str = option(
        ".",
        "directory of the prepared data; other paths are relative to it",
        group="Input",
        widget="directory",
        produces="preprocessed",
        alias="-s",
    )
    particle_name: str = option(
        "img_stack",
        "particle stack (.mrcs; the ending may be left out)",
        group="Input",
        widget="file",
        filter="*.mrcs *.mrc",
        produces="stack",
    )
    pose: str = option(
        "poses.npy", "orientations of the particles", group="Input", widget="file", filter="*.npy", produces="poses"
    )
    ctf: str = option(
        "ctf.npy", "CTF parameters of the particles", group="Input", widget="file", filter="*.npy", produces="ctf"
    )
    point: str = option(
        "point_cloud.ply", "consensus Gaussians", group="Input", widget="file", filter="*.ply", produces="gaussians"
    )
    cfg: str = option(
        "cfg.json",
        "configuration of Gaussians and network",
        group="Input",
        widget="file",
        filter="*.json",
        produces="configuration",
    )
    mask: str = option(
        "",
        "Gaussians that may move: 0 or 1 for each (.npy, .txt), or an MRC mask on the consensus map's grid",
        group="Input",
        widget="mask",
        filter="*.npy *.txt *.mrc",
        produces="mask",
    )
    output: str = option("train", "directory of the output", group="Output", widget="directory")
    resume: bool = option(
        False, "go on from the last checkpoint in the output directory; a larger epoch trains on", group="Output"
    )
    batch: int = option(32, "images per step", group="Training", ge=1, le=65536)
    epoch: int | None = option(
        None, "passes over the particles; without it 6 to 60, by recipe and number", group="Training", ge=1, le=10000
    )
    recipe: Literal["default", "published"] = option(
        "default",
        "default: squared error, latents refined per particle; published: losses and rates of the paper",
        group="Training",
    )
    lr: float | None = option(
        None, "learning rate of the network; without it the recipe's", group="Training", gt=0, le=10, advanced=True
    )
    lr_latent: float | None = option(
        None,
        "learning rate of the per-particle latents; without it the recipe's",
        group="Training",
        gt=0,
        le=10,
        advanced=True,
    )
    latents: Literal["auto", "linear", "encoder", "free", "both"] = option(
        "auto",
        "latents from a linear model and the population of all particles, from the image encoder, free per "
        "particle, or encoder first and then refined",
        group="Training",
        advanced=True,
    )
    warmup_steps: int = option(
        200, "steps of linear learning-rate warm-up", group="Training", ge=0, le=10_000_000, advanced=True
    )
    beta: float | None = option(
        None, "weight of the KL term; without it the recipe's", group="Losses", ge=0, le=LARGEST_WEIGHT, advanced=True
    )
    w_embedding: float | None = option(
        None, "weight of the neighbours' embedding term", group="Losses", ge=0, le=LARGEST_WEIGHT, advanced=True
    )
    w_distance: float | None = option(
        None, "weight of the change of neighbour distances", group="Losses", ge=0, le=LARGEST_WEIGHT, advanced=True
    )
    w_direction: float | None = option(
        None, "weight of the neighbours' common direction", group="Losses", ge=0, le=LARGEST_WEIGHT, advanced=True
    )
    w_spacing: float | None = option(
        None, "weight of the even spacing term", group="Losses", ge=0, le=LARGEST_WEIGHT, advanced=True
    )
    w_latent: float | None = option(
        None,
        "weight of the latent neighbour term (from the third epoch)",
        group="Losses",
        ge=0,
        le=LARGEST_WEIGHT,
        advanced=True,
    )
    pairs: int | None = option(
        None,
        "neighbour pairs drawn per step, 0 for all; without it the recipe's",
        group="Losses",
        ge=0,
        le=100_000_000,
        advanced=True,
    )
    hold_rotations: bool = option(
        False,
        "take the orientations as given: do not estimate their errors with the latents",
        group="Corrections",
        advanced=True,
    )
    hold_shifts: bool = option(
        False,
        "take the offsets as given: do not estimate their errors with the latents",
        group="Corrections",
        advanced=True,
    )
    hold_contrast: bool = option(
        False, "take the contrast of all images to be the same", group="Corrections", advanced=True
    )
    hold_defocus: bool = option(
        False,
        "take the defocus as given: do not estimate its errors with the latents",
        group="Corrections",
        advanced=True,
    )
    keep_junk: bool = option(
        False,
        "let images that seem to hold no such particle count like all others",
        group="Corrections",
        advanced=True,
    )
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto",
        "arithmetic of the decoder: auto is bfloat16 where that is faster, else float32",
        group="Compute",
        advanced=True,
    )
    gpus: str = option("", "GPUs to train on, e.g. 0,1,2,3; without it the first", group="Compute", widget="gpu")
    scratch_dir: str = option(
        "",
        "copy the stack to this local directory first, and remove it at the end",
        group="Compute",
        widget="directory",
        advanced=True,
    )
    stack_in_memory: Literal["auto", "gpu", "host", "disk"] = option(
        "auto", "where the images stay during training", group="Compute", advanced=True
    )
    half_sets: bool = option(
        False,
        "train the two half sets (rlnRandomSubset) independently as well, to tell signal from noise",
        group="Trust",
        advanced=True,
    )
    seed: int = option(0, "seed of every random choice", group="Compute", ge=0, le=LARGEST_SEED, advanced=True)

    @field_validator("gpus")
    @classmethod
    def _gpus(cls, value: str) -> str:
        if not re.fullmatch(r"([0-9]{1,6}(,[0-9]{1,6})*)?", value):
            raise ValueError("must be GPU numbers separated by commas, as in 0,1")
        numbers = [int(number) for number in value.split(",") if number]
        if len(set(numbers)) < len(numbers) or max(numbers, default=0) > LARGEST_GPU:
            raise ValueError(f"must name each GPU once, by a number up to {LARGEST_GPU}")
        return value

    @property
    def latents_from(self) -> str:
        """Where the latents come from: ``latents``, or the recipe's choice."""
        return LATENTS_OF_RECIPE[self.recipe] if self.latents == "auto" else self.latents

    @model_validator(mode="after")
    def _used(self) -> TrainOptions:
        where = f"in the recipe {self.recipe} with latents {self.latents_from}"
        if self.latents_from == "linear":
            # Latents are measured, image by image, and drawn from their posteriors: no gradient leads to them.
            remedy = "Leave it out, or give --latents free, both or encoder, or --recipe published."
            refuse_unused(self, ("beta", "w_latent"), where, remedy)
        if self.latents_from in ("linear", "encoder"):
            refuse_unused(self, ("lr_latent",), where, "Leave it out, or give --latents free or both.")
        if self.latents_from != "linear" or self.recipe == "published":
            names = ("hold_rotations", "hold_shifts", "hold_contrast", "hold_defocus", "keep_junk")
            refuse_unused(self, names, where, "Leave it out: poses are taken as given, and all images count, there.")
        return self


class ModelOptions(BaseModel):
    """A trained network and what it was trained with."""

    source_dir: str = option(
        ".", "directory of the data; other paths are relative to it", group="Input", widget="directory", alias="-s"
    )
    gaussians: str = option(
        "point_cloud.ply", "consensus Gaussians", group="Input", widget="file", filter="*.ply", produces="gaussians"
    )
    cfg: str = option(
        "cfg.json",
        "configuration of Gaussians and network",
        group="Input",
        widget="file",
        filter="*.json",
        produces="configuration",
    )
    model_weight: str = option(
        ...,
        "trained parameters of the network (.pkl)",
        group="Input",
        widget="file",
        filter="*.pkl",
        produces="checkpoint",
    )


class MaskOptions(BaseModel):
    """Which part of the molecule may move."""

    mask: str = option(
        "",
        "Gaussians that may move: 0 or 1 for each (.npy, .txt), or an MRC mask",
        group="Input",
        widget="mask",
        filter="*.npy *.txt *.mrc",
        produces="mask",
    )


class DetailOptions(BaseModel):
    """What volumes show."""

    no_detail: bool = option(
        False,
        "volumes of the Gaussians alone, without what only the consensus map shows",
        group="Volumes",
        advanced=True,
    )


class AnalyzeOptions(DetailOptions, MaskOptions, ModelOptions, ComputeOptions, JobOptions):
    """Trained network and latents -> components, classes, volumes, trajectories, figures."""

    job_type: ClassVar[str] = "analyze"
    title: ClassVar[str] = "Analyze"

    latent: str = option(
        ...,
        "latents of the particles (.output.pkl)",
        group="Input",
        widget="file",
        filter="*.pkl",
        produces="latents",
    )
    star_file: str = option(
        "",
        "particles.star of the preprocess job: adds classes and latents to its rows",
        group="Input",
        widget="file",
        filter="*.star",
        produces="particles",
    )
    output: str = option("analyze", "directory of the output", group="Output", widget="directory")
    nclass: int = option(10, "number of k-means classes", group="Analysis", ge=1, le=1000)
    components: int = option(3, "principal components with a trajectory", group="Analysis", ge=0, le=64)
    trajectory_points: int = option(10, "volumes along each component", group="Analysis", ge=2, le=500)
    trajectory_low: float = option(
        5.0,
        "percentile of the component where its trajectory starts",
        group="Analysis",
        ge=0,
        le=100,
        unit="%",
        advanced=True,
    )
    trajectory_high: float = option(
        95.0, "percentile where it ends", group="Analysis", ge=0, le=100, unit="%", advanced=True
    )
    box: int | None = option(
        None,
        "box of the volumes; without it the training box",
        group="Analysis",
        unit="px",
        ge=8,
        le=1024,
        advanced=True,
    )
    no_umap: bool = option(False, "skip UMAP even if it is installed", group="Analysis", advanced=True)
    seed: int = option(0, "seed of k-means and UMAP", group="Compute", ge=0, le=LARGEST_SEED, advanced=True)

    @model_validator(mode="after")
    def _percentiles(self) -> AnalyzeOptions:
        if self.trajectory_low >= self.trajectory_high:
            low, high = self.trajectory_low, self.trajectory_high
            raise ValueError(f"trajectory_low must be below trajectory_high, {high:g} (got {low:g})")
        if self.components == 0:
            names = ("trajectory_points", "trajectory_low", "trajectory_high")
            refuse_unused(self, names, "without trajectories (components 0)", "Leave it out, or give --components 1.")
        return self


class DecodeOptions(DetailOptions, MaskOptions, ModelOptions, ComputeOptions, JobOptions):
    """Latents or particles -> volumes and Gaussians."""

    job_type: ClassVar[str] = "decode"
    title: ClassVar[str] = "Decode"

    z: str = option(
        "",
        "latents to decode: text or .npy, one row a volume",
        group="What to decode",
        widget="file",
        filter="*.txt *.npy *.csv",
    )
    latent: str = option(
        "",
        "latents of the particles (.output.pkl), needed with particle_indices",
        group="What to decode",
        widget="file",
        filter="*.pkl",
        produces="latents",
    )
    particle_indices: str = option(
        "",
        "particles to decode, counted from 0: a text file with numbers or ranges such as 10-20",
        group="What to decode",
        widget="file",
        filter="*.txt",
    )
    output: str = option("decode", "directory of the output", group="Output", widget="directory")
    box: int | None = option(
        None, "box of the volumes; without it the training box", group="What to decode", unit="px", ge=8, le=1024
    )

    @model_validator(mode="after")
    def _one_source(self) -> DecodeOptions:
        if bool(self.z) == bool(self.particle_indices):
            raise ValueError(
                f"z must be given, or particle_indices, and not both (got {'both' if self.z else 'neither'})"
            )
        if self.particle_indices and not self.latent:
            raise ValueError("particle_indices needs latent (got none)")
        return self


class SimulateOptions(ComputeOptions, JobOptions):
    """A structure in motion -> particles with known truth, as RELION would write them."""

    job_type: ClassVar[str] = "simulate"
    title: ClassVar[str] = "Simulate"

    model: str = option(
        ...,
        "multi-model .pdb/.cif, trajectory .npz (xyz, weight) or Gaussians .ply",
        group="Input",
        widget="file",
        filter="*.pdb *.cif *.npz *.ply",
    )
    output: str = option("simulated", "directory of the output", group="Output", widget="directory")
    particles: int = option(2000, "number of particles", group="Images", ge=1, le=100_000_000)
    box: int = option(64, "box", group="Images", unit="px", ge=8, le=1024)
    apix: float = option(3.0, "pixel size", group="Images", unit="A/px", **within("pixel size"))
    snr: float = option(
        0.1, "signal-to-noise ratio: variance of signal over variance of noise", group="Images", gt=0, le=1e6
    )
    resolution: float | None = option(
        None,
        "resolution of an atom's density; without it twice the pixel size",
        group="Images",
        unit="A",
        gt=0,
        le=1000,
    )
    float16: bool = option(False, "write the stack in half the space (MRC mode 12)", group="Images")
    no_ctf: bool = option(False, "no CTF", group="CTF")
    defocus_min: float = option(8000.0, "smallest defocus", group="CTF", unit="A", ge=0, le=RANGES["defocus U"].high)
    defocus_max: float = option(25000.0, "largest defocus", group="CTF", unit="A", ge=0, le=RANGES["defocus U"].high)
    astigmatism: float = option(200.0, "largest difference of defocus U and V", group="CTF", unit="A", ge=0, le=100_000)
    voltage: float = option(300.0, "acceleration voltage", group="CTF", unit="kV", **within("voltage"))
    cs: float = option(2.7, "spherical aberration", group="CTF", unit="mm", **within("spherical aberration"))
    amplitude_contrast: float = option(0.1, "amplitude contrast", group="CTF", **within("amplitude contrast"))
    shift: float = option(2.0, "standard deviation of the particles' offsets", group="Images", unit="px", ge=0, le=1000)
    poses: str = option(
        "",
        "take orientations and CTFs from these particles (.star); without it views from everywhere, and the CTF above",
        group="Views and errors",
        widget="file",
        filter="*.star",
    )
    pose_error: float = option(
        0.0, "error of the orientations in the particles file, rms", group="Views and errors", unit="deg", ge=0, le=180
    )
    shift_error: float = option(
        0.0,
        "error of the offsets in the particles file, rms in x and in y",
        group="Views and errors",
        unit="px",
        ge=0,
        le=1000,
    )
    defocus_error: float = option(
        0.0, "error of the defocus in the particles file, rms", group="Views and errors", unit="A", ge=0, le=100_000
    )
    consensus: Literal["exact", "reconstructed"] = option(
        "exact",
        "the mean of the true maps, or the FSC-weighted map that these images give with the poses of the particles "
        "file, and its half maps",
        group="Views and errors",
    )
    contrast_spread: float = option(
        0.0, "standard deviation of the logarithm of the particles' contrast", group="Images", ge=0, le=2
    )
    noise: str = option(
        "white",
        "white, coloured (falls as that of real images), or a table of two columns: frequency (1/A), relative power",
        group="Images",
    )
    gradient: float = option(
        0.0,
        "ramp of the background from centre to edge, in standard deviations of the noise",
        group="Images",
        ge=0,
        le=1000,
    )
    tilts: int = option(0, "images of each particle in a tilt series; 0 for single images", group="Tilts", ge=0, le=300)
    tilt_range: float = option(60.0, "largest tilt", group="Tilts", unit="deg", ge=0, le=80, advanced=True)
    tilt_dose: float = option(3.0, "dose of each image", group="Tilts", unit="e/A^2", ge=0, le=1000, advanced=True)
    thickness: float = option(
        1500.0, "of the specimen, which weakens tilted images", group="Tilts", unit="A", ge=0, le=10_000, advanced=True
    )
    junk: float = option(0.0, "share of the images that hold no such particle", group="Junk", ge=0, lt=1)
    junk_kinds: str = option(
        "noise,fragment", "kinds of junk, in equal shares: noise, fragment, other", group="Junk", advanced=True
    )
    junk_model: str = option(
        "",
        "the molecule of the kind other",
        group="Junk",
        widget="file",
        filter="*.pdb *.cif *.npz *.ply",
        advanced=True,
    )
    missing: str = option(
        "",
        "part that is absent in some particles: residues as 122-159, or the name of a mask array in the .npz",
        group="Composition",
    )
    missing_fraction: float = option(
        0.3, "share of the particles in which that part is absent", group="Composition", ge=0, le=1
    )
    states: Literal["uniform", "endpoints"] = option(
        "uniform", "frames drawn uniformly, or the first and the last alone", group="Motion"
    )
    basins: str = option(
        "",
        "draw frames from basins instead: centre:width:share, ..., from 0 (first frame) to 1 (last)",
        group="Motion",
    )
    motions: str = option(
        "",
        "parts that move independently, separated by semicolons, each as for missing; the rest keeps its first frame",
        group="Motion",
    )
    seed: int = option(0, "seed of every random choice", group="Images", ge=0, le=LARGEST_SEED)

    @model_validator(mode="after")
    def _one_distribution(self) -> SimulateOptions:
        if self.basins and self.states == "endpoints":
            raise ValueError(f"basins must be left out with states endpoints (got {self.basins})")
        if not self.missing:
            remedy = "Leave it out, or say with --missing which part it is."
            refuse_unused(self, ("missing_fraction",), "where no part is missing", remedy)
        if not self.tilts:
            tilted = ("tilt_range", "tilt_dose", "thickness")
            refuse_unused(self, tilted, "without tilts", "Leave it out, or give the number of --tilts.")
        elif self.junk:
            raise InputError(
                "--junk", "must be 0 with --tilts: junk is simulated in single images", self.junk, "Leave it out."
            )
        if not self.junk:
            remedy = "Leave it out, or give the share of --junk."
            refuse_unused(self, ("junk_kinds", "junk_model"), "without junk", remedy)
        drawn = ("defocus_min", "defocus_max", "astigmatism", "voltage", "cs", "amplitude_contrast")
        if self.poses:
            remedy = "Leave it out, or leave out --poses."
            refuse_unused(self, drawn, "where the CTFs are those of poses", remedy)
        if self.no_ctf:
            names = [name for name in (*drawn, "defocus_error") if name != "voltage"]  # the particles file holds it
            refuse_unused(self, names, "without a CTF", "Leave it out, or leave out --no_ctf.")
        return self


class EvaluateOptions(DetailOptions, ModelOptions, ComputeOptions, JobOptions):
    """Results against known truth: FSC per particle, latent error, class accuracy."""

    job_type: ClassVar[str] = "evaluate"
    title: ClassVar[str] = "Evaluate"

    truth: str = option(
        ..., "truth.npz of the simulation", group="Input", widget="file", filter="*.npz", produces="truth"
    )
    latent: str = option(
        ...,
        "latents of the particles (.output.pkl)",
        group="Input",
        widget="file",
        filter="*.pkl",
        produces="latents",
    )
    volumes: int = option(
        100, "particles whose volume is compared with the truth", group="Evaluation", ge=1, le=1_000_000
    )
    mask: str = option(
        "",
        "MRC mask for the masked figures; without it one around the consensus",
        group="Input",
        widget="mask",
        filter="*.mrc",
    )
    consensus_map: str = option(
        "",
        "map that the refinement gave, to compare with; without it consensus.mrc beside the truth, if there is one",
        group="Input",
        widget="file",
        filter="*.mrc *.map",
    )
    particles: str = option(
        "",
        "particles with corrected poses, to be scored; without it particles.star beside the latents, if there is one",
        group="Input",
        widget="file",
        filter="*.star",
    )
    output: str = option("evaluate", "directory of the output", group="Output", widget="directory")
    seed: int = option(0, "seed of the choice of particles", group="Evaluation", ge=0, le=LARGEST_SEED)


class ReconstructOptions(ComputeOptions, JobOptions):
    """Particle images and poses -> half maps, FSC, a sharpened map and its local resolution."""

    job_type: ClassVar[str] = "reconstruct"
    title: ClassVar[str] = "Reconstruct"

    source_dir: str = option(
        ".",
        "directory of a preprocess job, whose particles are taken, or of the project; other paths are relative to it",
        group="Particles",
        widget="directory",
        produces="preprocessed",
        alias="-s",
    )
    star_file: str = option(
        "",
        "particles with poses (RELION .star, cryoSPARC .cs or .csg); without it those of the preprocess job",
        group="Particles",
        widget="file",
        filter="*.star *.cs *.csg",
        produces="particles",
    )
    data_dir: str = option(
        "",
        "directory of the particle stacks, when the paths in the metadata are not found",
        group="Particles",
        widget="directory",
    )
    passthrough: list[str] = option(
        [],
        "cryoSPARC passthrough .cs files, joined on uid",
        group="Particles",
        widget="file",
        filter="*.cs",
        advanced=True,
    )
    group_by: GroupBy = option(
        "auto",
        "what tells which images show one particle, for tilt series: a column whose value the rows of one particle "
        "share; auto takes RELION 5's stacks of tilt images as such and every other row as a particle",
        group="Particles",
        advanced=True,
    )
    poses: str = option(
        "",
        "take poses and defocus from these particles instead, row by row: particles.star of a training",
        group="Particles",
        widget="file",
        filter="*.star",
    )
    select: str = option(
        "",
        "only these particles: row numbers from 0 or a mask (.npy), numbers and ranges such as 10-20 (.txt), or a "
        "particle file that names the same images",
        group="Particles",
        widget="file",
        filter="*.npy *.txt *.star *.cs",
    )
    weights: str = option(
        "",
        "how much each particle counts: one number from 0 on for each (.npy)",
        group="Particles",
        widget="file",
        filter="*.npy",
        advanced=True,
    )
    latent: str = option(
        "",
        "latents of the particles (.output.pkl), row by row",
        group="State",
        widget="file",
        filter="*.pkl",
    )
    around: str = option(
        "",
        "latents of the states to reconstruct, one row a map (text or .npy): each from the particles around it",
        group="State",
        widget="file",
        filter="*.txt *.npy *.csv",
    )
    width: int | None = option(
        None,
        "particles around each state; without it as many as let one half set predict the other best",
        group="State",
        ge=2,
        le=100_000_000,
        advanced=True,
    )
    model_weight: str = option(
        "",
        "network that the latents belong to (.pkl): tells which latents look alike, and the decoded volume to compare",
        group="State",
        widget="file",
        filter="*.pkl",
    )
    undo_motion: bool = option(
        False,
        "all particles brought to one state by undoing their motion: the consensus, or the row of around",
        group="State",
    )
    domain_poses: str = option(
        "",
        "mask of a domain (.mrc): its own poses as particles for focused refinement, and its mask, besides the map",
        group="State",
        widget="file",
        filter="*.mrc",
    )
    subtract: bool = option(
        False, "with domain_poses: a stack from which all but the domain is subtracted", group="State", advanced=True
    )
    cfg: str = option(
        "cfg.json",
        "configuration of Gaussians and network",
        group="State",
        widget="file",
        filter="*.json",
        advanced=True,
    )
    gaussians: str = option(
        "point_cloud.ply", "consensus Gaussians", group="State", widget="file", filter="*.ply", advanced=True
    )
    symmetry: str = option(
        "C1", "point group that the map is given (C2, D2, T, O, I, ... as RELION has them)", group="Map"
    )
    box: int | None = option(
        None,
        "box of the map; without apix it spans the images' length, with it the map is cut or filled up to it",
        group="Map",
        unit="px",
        ge=8,
        le=LARGEST_BOX,
    )
    apix: float | None = option(
        None, "pixel size of the map; without it the images'", group="Map", unit="A/px", **within("pixel size")
    )
    mask: str = option(
        "",
        "soft mask of the molecule in the map's box (.mrc); without it one is made",
        group="Map",
        widget="mask",
        filter="*.mrc",
        produces="mask",
    )
    bfactor: float | None = option(
        None,
        "B-factor for sharpening, negative to sharpen; without it from Guinier's plot",
        group="Map",
        unit="A^2",
        ge=-1000,
        le=1000,
    )
    no_local: bool = option(False, "no local resolution", group="Map", advanced=True)
    deposit: bool = option(False, "write a folder with all that EMDB asks for", group="Output")
    no_invert: bool = option(False, "the protein is dark in the images", group="Images", advanced=True)
    image_apix: float | None = lacking("pixel size of the images", "A/px", "pixel size")
    voltage: float | None = lacking("acceleration voltage", "kV", "voltage")
    cs: float | None = lacking("spherical aberration", "mm")
    amplitude_contrast: float | None = lacking("amplitude contrast")
    output: str = option("reconstruct", "directory of the output", group="Output", widget="directory")
    seed: int = option(
        0,
        "seed of the split into half sets, and of random phases",
        group="Compute",
        ge=0,
        le=LARGEST_SEED,
        advanced=True,
    )

    @field_validator("box")
    @classmethod
    def _even(cls, value: int | None) -> int | None:
        if value is not None and value % 2:
            raise ValueError("must be even")
        return value

    @model_validator(mode="after")
    def _used(self) -> ReconstructOptions:
        if not self.star_file:
            names = ("passthrough", "no_invert", "image_apix", "voltage", "cs", "amplitude_contrast")
            remedy = "Leave it out, or give --star_file."
            refuse_unused(self, names, "where the particles of a preprocess job are taken", remedy)
        states = ("width", "model_weight", "undo_motion", "domain_poses", "subtract")
        if not self.latent:
            refuse_unused(self, ("around", *states), "without latents", "Give --latent too.")
        if self.latent and not (self.around or self.undo_motion or self.domain_poses):
            remedy = "Give --around, --undo_motion or --domain_poses, or leave it out."
            refuse_unused(self, ("latent",), "where no state is asked for", remedy)
        if not self.around or self.undo_motion:
            refuse_unused(self, ("width",), "where no map is made of the particles around a state", "Leave it out.")
        if not self.model_weight:
            remedy = "Give --model_weight too."
            refuse_unused(self, ("undo_motion", "domain_poses", "cfg", "gaussians"), "without a network", remedy)
        if not self.domain_poses:
            refuse_unused(self, ("subtract",), "without a domain", "Give --domain_poses too, or leave it out.")
        if self.undo_motion:
            refuse_unused(self, ("symmetry",), "where motion is undone: mates move otherwise", "Leave it out.")
        if self.passthrough and not self.star_file.endswith((".cs", ".csg")):
            refuse_unused(self, ("passthrough",), "for STAR files", "Leave it out.")
        return self


class MorphOptions(ModelOptions, ComputeOptions, JobOptions):
    """An atomic model fitted to the consensus follows the Gaussians along a trajectory."""

    job_type: ClassVar[str] = "morph"
    title: ClassVar[str] = "Morph"

    model: str = option(
        ...,
        "atomic model fitted to the consensus map",
        group="Input",
        widget="file",
        filter="*.cif *.pdb",
        produces="model",
    )
    z: str = option(
        ...,
        "latents along the trajectory: text or .npy, one row a frame",
        group="Input",
        widget="file",
        filter="*.txt *.npy *.csv",
        produces="trajectory",
    )
    output: str = option("morph", "directory of the output", group="Output", widget="directory")
    format: Literal["cif", "pdb"] = option("cif", "format of the multi-model file", group="Output")
    neighbours: int = option(16, "Gaussians that carry an atom", group="Morph", ge=1, le=256, advanced=True)

    @model_validator(mode="after")
    def _used(self) -> MorphOptions:
        refuse_unused(self, ("projector",), "where nothing is rendered", "Leave it out.")
        return self


class ImportOptions(JobOptions):
    """Files from elsewhere, linked into the project so that other jobs can choose them."""

    job_type: ClassVar[str] = "import"
    title: ClassVar[str] = "Import"

    files: list[str] = option(
        ...,
        "particles (.star, .cs, .csg), maps or masks (.mrc), atomic models (.cif, .pdb)",
        group="Input",
        widget="file",
        filter="*.star *.cs *.csg *.mrc *.map *.cif *.pdb",
    )
    kind: Literal["auto", "particles", "map", "mask", "model"] = option(
        "auto", "what the files are; auto tells it from name and content", group="Input"
    )
    latents: str = option(
        "",
        "latents of the particles by another program: cryoDRGN's z.N.pkl, RECOVAR's latent_coords.npy, cryoSPARC's .cs "
        "of 3D Variability or 3D Flex, or a table with a column for each dimension",
        group="Latents of another program",
        widget="file",
        filter="*.pkl *.npy *.cs *.star *.csv *.txt *.tsv",
    )
    indices: str = option(
        "",
        "which rows of the particle file the latents are of, where the program was given only some (cryoDRGN's --ind)",
        group="Latents of another program",
        widget="file",
        filter="*.pkl *.npy *.txt",
    )
    columns: list[str] = option(
        [],
        "columns of the table that are latent dimensions; without it those that are numbered alike "
        "(of RECOVAR's embeddings.pkl: the zdim)",
        group="Latents of another program",
        advanced=True,
    )
    passthrough: list[str] = option(
        [],
        "cryoSPARC passthrough .cs files of the particles, joined on uid",
        group="Latents of another program",
        widget="file",
        filter="*.cs",
        advanced=True,
    )
    data_dir: str = option(
        "",
        "directory of the particle stacks, when the paths in the metadata are not found",
        group="Latents of another program",
        widget="directory",
        advanced=True,
    )
    copy_files: bool = option(False, "copy the files instead of linking to them", group="Output")
    output: str = option("import", "directory of the output", group="Output", widget="directory")

    @model_validator(mode="after")
    def _used(self) -> ImportOptions:
        if not self.latents:
            names = ("indices", "columns", "passthrough", "data_dir")
            refuse_unused(self, names, "without latents of another program", "Give --latents too, or leave it out.")
        return self


JOB_OPTIONS: dict[str, type[JobOptions]] = {
    model.job_type: model
    for model in (
        ImportOptions,
        PreprocessOptions,
        TrainOptions,
        AnalyzeOptions,
        DecodeOptions,
        SimulateOptions,
        EvaluateOptions,
        ReconstructOptions,
        MorphOptions,
    )
}


def hints(model: type[BaseModel], name: str) -> dict[str, Any]:
    """Form hints of field ``name``: group, unit, widget, filter, produces, advanced, alias."""
    extra = model.model_fields[name].json_schema_extra
    return dict(extra) if isinstance(extra, dict) else {}


def refuse_unused(options: BaseModel, names: Iterable[str], where: str, remedy: str) -> None:
    """Raise ValueError for the first of ``names`` that is not at its default, as it changes nothing ``where``.

    The text is in the form that :func:`explain` reads.
    """
    for name in names:
        value = getattr(options, name)
        if value != type(options).model_fields[name].default:
            raise ValueError(f"{name} changes nothing {where} (got {value}). {remedy}")


def own_options_first(model: type[BaseModel]) -> list[str]:
    """Names of a job's options: its own first, those that it shares with others last."""
    return sorted(model.model_fields, key=lambda name: name not in model.__annotations__)


def explain(error: ValidationError) -> InputError:
    """The first problem that pydantic found, as an error that names option, rule, value and remedy.

    Rules on several options together say "OPTION RULE (got VALUE)" or "OPTION RULE (got VALUE). REMEDY", see the
    models' validators and ``refuse_unused``.
    """
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "options"
    rule = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return InputError(f"option {name}", "is unknown", first["input"], "Remove it or correct its name.")
    if not first["loc"]:
        name, _, rule = rule.partition(" ")
        rule, _, rest = rule.removesuffix(")").partition(" (got ")
        value, _, remedy = rest.partition("). ")
        remedy = remedy or "Change one of them; --help lists the options."
        return InputError(f"option {name}", rule, value, remedy)
    value = "nothing" if first["type"] == "missing" else first["input"]
    return InputError(f"option {name}", rule, value, "Give a valid value; --help lists the options.")


def load_options(model: type[JobOptions], path: Path | str) -> dict[str, Any]:
    """Values in an ``options.json``; unknown names are an error, absent ones keep their defaults.

    Raises InputError if the file cannot be read, is no JSON object, is of another job type, or holds an unknown option.
    The values themselves are checked by the model.
    """
    values = read_json_object(path, "--options", "Use an options.json written by a job.")
    if values.pop("job_type", model.job_type) != model.job_type:
        raise InputError("--options", f"must be of a {model.job_type} job", path, "Use that job's options.json.")
    unknown = sorted(set(values) - set(model.model_fields))
    if unknown:
        raise InputError(f"option {unknown[0]}", "is unknown", values[unknown[0]], f"Remove it from {path}.")
    return values


def options_json(options: JobOptions) -> str:
    """The text of ``options.json`` that reproduces the run with ``--options``."""
    return json.dumps({"job_type": options.job_type, **options.model_dump(mode="json")}, indent=1) + "\n"


def command_line(options: JobOptions) -> list[str]:
    """The shortest argument list that gives ``options``: what a user can paste into a terminal after quoting."""
    arguments = ["gaussianem", options.job_type]
    for name, field in type(options).model_fields.items():
        value = getattr(options, name)
        if not field.is_required() and value == field.default:
            continue
        if isinstance(value, bool):
            arguments += [f"--{name}"]
        elif isinstance(value, list):
            arguments += [f"--{name}", *map(str, value)] if value else []
        elif value is not None:
            arguments += [f"--{name}", str(value)]
    return arguments
