"""Maps of states, motion undone and poses of domains against the truth of a simulation.

    reconstruction_states.py SIMULATE PREPROCESS TRAIN     directories of three jobs, as accuracy.py --work leaves them

Prints four tables and writes their figures with --json:

*Command*: maps of single states, those of particles drawn at random, by ``gaussianem reconstruct --around`` the mean
latent of the particles in nearly the same state, with its seconds; area under the masked FSC with the true volume of
that particle (CryoBench's way; limit (D/2 - 1) / D). *States*: the same beside the decoded volume, all images together,
the best of all single widths (which needs the truth), the width chosen by cross-validation, all widths together
(`latent_kernel.combine_widths`), and all widths for each region of the molecule by itself, which is tried here and is
not part of the program. *Motion*: one map of all images with their motion undone beside the plain reconstruction, FSC
by shells inside the body and each moving part, with the mean true state of the NEAREST particles in latents: one
particle's own latent may be wrong by degrees. *Domains*: errors of the orientation and place of each moving part,
before (the pose that the particles file gives) and after, modulo a common one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaussianem_core.imaging.backprojection import accumulate, empty_sums, inverse_prior, solve
from gaussianem_core.imaging.ctf import ctf, load_ctf
from gaussianem_core.imaging.fourier import fourier_shell_correlation, fsc_area, weight_shells
from gaussianem_core.imaging.pose import load_poses, rotations_from_angles
from gaussianem_core.imaging.voxelization import voxelize
from gaussianem_core.io.image_stack import ImageStack
from gaussianem_core.io.latents import load_latents
from gaussianem_core.io.mrc import read_map
from gaussianem_core.io.particle_table import read_particles
from gaussianem_core.model.detail import soft_mask
from gaussianem_core.model.trained_model import TrainedModel, load_model
from gaussianem_core.reconstruction.domain_poses import domain_motions, domain_poses
from gaussianem_core.reconstruction.latent_kernel import (
    Rings,
    combine_widths,
    cross_validated_width,
    expected_distances,
    nested_sets,
    unit_metric,
    volume_slopes,
)
from gaussianem_core.reconstruction.motion import (
    SEAM_PIXELS,
    accumulate_parts,
    blend,
    displacement_field,
    empty_part_sums,
    find_parts,
    part_windows,
    position_uncertainty,
    restored,
    round_trip,
)
from gaussianem_core.reconstruction.part_calibration import IMAGES, ImageBatch, calibrate, sampled
from gaussianem_core.reconstruction.rigid_motion import fit_motions, particle_motions
from gaussianem_core.reconstruction.states import Latents
from gaussianem_core.simulation.ground_truth import (
    Truth,
    band_limited_volumes,
    frame_densities,
    load_truth,
    mean_volume,
    point_positions,
    true_volumes,
)
from gaussianem_core.simulation.pose_scores import common_displacement, common_rotation, rms

NEAREST = 30
"""Particles of nearly the same true state, whose mean latent is where a state is asked for, and of nearly the same
latent, whose mean true state all images at one state are compared with: without the error of a single one's latent."""
REGIONS = 3
"""Parts of the molecule that are compared by themselves for the maps of states."""
OVERALL_SHARE = 0.05
"""Of the change of the whole volume in the metric of a region."""


@dataclass
class Data:
    """What the three jobs left, on the device: N particles, box D."""

    truth: Truth
    model: TrainedModel
    z: np.ndarray
    variance: np.ndarray
    images: Tensor
    rotations: Tensor
    shifts: Tensor
    parameters: Tensor
    contrast: Tensor
    weight: Tensor  # (D//2+1,)
    half: np.ndarray
    used: np.ndarray
    box: int

    def batches(
        self, rows: np.ndarray, size: int = 512
    ) -> Iterator[tuple[np.ndarray, tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]]:
        """Rows, and images, rotations, shifts, CTF (with contrast) and weights."""
        for some in np.array_split(rows, max(1, -(-len(rows) // size))):
            at = torch.from_numpy(some).to(self.images.device)
            transfer = -ctf(self.parameters[at], self.box) * self.contrast[at, None, None]
            weight = self.weight.expand(len(some), -1)
            yield some, (self.images[at], self.rotations[at], self.shifts[at], transfer, weight)


def load(given: argparse.Namespace) -> Data:
    """Read the jobs' files."""
    device = torch.device(given.device)
    truth = load_truth(given.simulate / "truth.npz")
    last = max(given.train.glob("weights.*.output.pkl"), key=lambda path: int(path.name.split(".")[1]))
    cfg, weights = given.preprocess / "cfg.json", last.with_name(last.name.replace(".output", ""))
    model = load_model(cfg, weights, given.preprocess / "point_cloud.ply", device=device)
    latents, box = load_latents(last), model.configuration.box
    stack = ImageStack.from_file(given.preprocess / "img_stack.mrcs")
    count = len(stack)
    images = torch.empty(count, box, box, device=device)
    sign = 1.0 if model.configuration.invert_contrast else -1.0  # white protein
    for rows in np.array_split(np.arange(count), -(-count // 2000)):
        images[rows[0] : rows[-1] + 1] = sign * torch.from_numpy(stack.read(rows)).float().to(device)
    rotations, shifts = load_poses(given.preprocess / "poses.npy")
    parameters = load_ctf(given.preprocess / "ctf.npy")
    table = read_particles(given.preprocess / "particles.star", find_stacks=False)
    corrected = given.train / "particles.star"
    if corrected.is_file():
        table = read_particles(corrected, find_stacks=False)
        rotations = rotations_from_angles(table.angles_deg).astype(np.float32)
        shifts = (table.shifts_angstrom / model.configuration.pixel_size_angstrom).astype(np.float32)
        parameters[:, 2], parameters[:, 3] = table.defocus_u_angstrom, table.defocus_v_angstrom
    noise = json.loads((given.train / "noise_spectrum.json").read_text())["power"]
    half = np.arange(count) % 2
    contrast = latents.get("contrast", np.ones(count))
    return Data(
        truth,
        model,
        latents["z_mu"],
        np.exp(latents["z_logvar"]),
        images,
        torch.from_numpy(rotations).to(device),
        torch.from_numpy(shifts).to(device),
        torch.from_numpy(parameters).to(device),
        torch.as_tensor(contrast, dtype=torch.float32, device=device),
        1 / torch.tensor(noise, dtype=torch.float32, device=device).clamp_min(1e-12),
        half,
        latents.get("junk_probability", np.zeros(count)) < 0.5,
        box,
    )


def area(first: Tensor, second: Tensor, mask: Tensor) -> float:
    """Area under the masked FSC."""
    return float(fsc_area(fourier_shell_correlation(first * mask, second * mask), first.shape[-1]))


def synchronised(device: torch.device) -> float:
    """The time, once the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def images_for_calibration(data: Data) -> Callable[[], Iterator[ImageBatch]]:
    """Some thousand images, anew at each call."""
    rows = np.flatnonzero(sampled(IMAGES, data.used))
    return lambda: (ImageBatch(some, *views) for some, views in data.batches(rows, 128))


def state_places(data: Data, real: np.ndarray) -> np.ndarray:  # -> (N, L)
    """Where the particles truly are: motions in units of their spread, and whether the removable part is there."""
    truth = data.truth
    assert truth.motions is not None
    spread = np.nanstd(truth.motions[real], axis=0)
    values = np.nan_to_num((truth.motions - np.nanmean(truth.motions[real], axis=0)) / spread)
    there = np.ones(len(values)) if truth.present is None else truth.present
    return np.concatenate([values, 10.0 * there[:, None]], axis=1)


# ---- states ------------------------------------------------------------------------------------------------------


def region_metrics(model: TrainedModel, point: np.ndarray, spread: np.ndarray, windows: Tensor) -> np.ndarray:
    """As `latent_kernel.volume_metric` for each region of the volume, and OVERALL_SHARE of that of the whole.

    ``point``, ``spread`` : (zdim,). ``windows`` : (K, D, D, D) of the regions, in any box; ones for the whole. Returns
    (K, zdim, zdim).
    """
    slopes = volume_slopes(model, point, spread)

    def metric(seen: Tensor) -> np.ndarray:
        return unit_metric((seen.flatten(1) @ seen.flatten(1).T).cpu().numpy(), spread)

    sized = torch.nn.functional.interpolate(windows[:, None], size=slopes.shape[1:], mode="trilinear")[:, 0]
    whole = OVERALL_SHARE * metric(slopes)
    return np.stack([metric(slopes * window.to(slopes)) + whole for window in sized])


def nested_maps(data: Data, rows: np.ndarray, rings: Rings) -> list[list[Tensor]]:
    """Maps (D, D, D) of the nested sets of each half set, narrowest first, from one pass over the images: the sums of
    sets are sums of rings."""
    sums = [[empty_sums(data.box, data.images.device) for _ in rings.counts] for _ in range(2)]
    for some, views in data.batches(rows):
        for half, of_half in enumerate(sums):
            for width, own in enumerate(of_half):
                chosen = np.flatnonzero((data.half[some] == half) & (rings.ring[some] == width))
                if len(chosen):
                    accumulate(own, *(values[torch.from_numpy(chosen).to(own.device)] for values in views))
    return [[solve(own) for own in torch.stack(of_half).cumsum(0)] for of_half in sums]


def state_map(data: Data, point: np.ndarray, mask: Tensor, rows: np.ndarray) -> dict[str, Any]:
    """Maps of the state at a latent: of each single width and of all together, with what was chosen."""
    device = data.images.device
    reference = data.model.deform(point[None]).positions[0]
    parts = find_parts(data.model, data.z[rows], reference, most=REGIONS)
    pixel = 2 / data.box
    windows = part_windows(reference.cpu().numpy(), parts.labels, data.box, SEAM_PIXELS * pixel).to(device)
    whole = torch.ones_like(windows[:1])
    spread = data.z[rows].std(0)
    metrics = region_metrics(data.model, point, spread, torch.cat([whole, windows]))
    maps = []
    for metric in metrics:
        rings = nested_sets(expected_distances(data.z, data.variance, point, metric), data.half, data.used)
        first, second = nested_maps(data, rows, rings)
        maps.append((first, second, combine_widths(first, second, rings.counts, mask), rings.counts))
    first, second, plain, counts = maps[0]
    chosen, _ = cross_validated_width(first, second, mask)
    regional = [(found.first + found.second) / 2 for _, _, found, _ in maps[1:]]
    return {
        "widths": [(one + two) / 2 for one, two in zip(first, second)],
        "chosen": chosen,
        "counts": counts,
        "together": (plain.first + plain.second) / 2,
        "regions": blend(regional, windows),
        "effective": plain.effective,
        "parts": len(windows),
    }


def drawn_states(data: Data, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:  # -> (S,), (S, zdim)
    """Particles drawn at random, and where their states are in the latent space."""
    real = np.flatnonzero(data.used & data.truth.real)
    drawn = np.random.default_rng(seed).choice(real, count, replace=False)
    places = state_places(data, real)
    nearest = [real[np.square(places[real] - places[row]).sum(1).argsort()[:NEAREST]] for row in drawn]
    return drawn, np.stack([data.z[rows].mean(0) for rows in nearest])


def command_table(data: Data, given: argparse.Namespace) -> dict[str, Any]:
    """The same states as a user has them, in one job."""
    drawn, points = drawn_states(data, given.states, given.seed)
    mask = soft_mask(mean_volume(data.truth, data.images.device))
    last = max(given.train.glob("weights.*.output.pkl"), key=lambda path: int(path.name.split(".")[1]))
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "points.npy", points)
        words = ["--poses", str((given.train / "particles.star").resolve()), "--latent", str(last.resolve())]
        words += ["--model_weight", str(last.with_name(last.name.replace(".output", "")).resolve())]
        words += ["--around", str(Path(folder) / "points.npy"), "--job_dir", str(Path(folder) / "maps")]
        words += ["-s", str(given.preprocess.resolve()), "--device", data.images.device.type, "--no_local"]
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "gaussianem_core", "reconstruct", *words], check=True)
        seconds = time.perf_counter() - began
        maps = [read_map(Path(folder) / "maps" / f"vol_{i + 1:03d}.mrc").values for i in range(len(points))]
    areas = []
    for row, values in zip(drawn, maps):
        true = true_volumes(data.truth, np.array([row]), data.box, data.images.device)[0]
        areas.append(area(torch.from_numpy(values).to(true), true, mask))
    print(f"\n{len(points)} states by the command: masked FSC area {np.mean(areas):.4f}, {min(areas):.4f} to", end=" ")
    print(f"{max(areas):.4f}; {seconds:.1f} s with the start of the program, {seconds / len(points):.1f} s a state")
    return {"areas": areas, "seconds": seconds}


def states_table(data: Data, count: int, seed: int) -> dict[str, Any]:
    """Maps of ``count`` states against the truth."""
    device = data.images.device
    mask = soft_mask(mean_volume(data.truth, device))
    drawn, points = drawn_states(data, count, seed)
    rows = np.flatnonzero(data.used)
    lines: list[dict[str, float]] = []
    curves: dict[str, list[Tensor]] = {}
    for row, point in zip(drawn, points):
        began = synchronised(device)
        found = state_map(data, point, mask, rows)
        seconds = synchronised(device) - began
        true = true_volumes(data.truth, np.array([row]), data.box, device)[0]
        single = [area(volume, true, mask) for volume in found["widths"]]
        decoded = next(iter(data.model.volumes(point[None].astype(np.float32))))
        line = {
            "decoded": area(decoded, true, mask),
            "all images": single[-1],
            "best width": max(single),
            "chosen width": single[found["chosen"]],
            "all widths": area(found["together"], true, mask),
            "regions": area(found["regions"], true, mask),
            "seconds": seconds,
        }
        lines.append(line)
        for name in ("together", "regions"):
            curves.setdefault(name, []).append(fourier_shell_correlation(found[name] * mask, true * mask).cpu())
        print(
            f"particle {row:6d}: "
            + ", ".join(f"{k} {v:.4f}" for k, v in line.items())
            + f"; {found['parts']} regions; "
            f"nearest {found['counts'][found['chosen']]} of {found['counts'][-1]} chosen; effective "
            + " ".join(f"{n:.0f}" for n in found["effective"]),
            flush=True,
        )
    mean = {name: float(np.mean([line[name] for line in lines])) for name in lines[0]}
    print(f"\n{count} states, masked FSC area (limit {(data.box // 2 - 1) / data.box:.3f}):")
    for name, value in mean.items():
        print(f"  {name:<16}{value:8.4f}")
    shells = {name: torch.stack(several).mean(0).tolist() for name, several in curves.items()}
    print_shells(shells, data)
    return {"mean": mean, "states": lines, "curves": shells}


# ---- motion ------------------------------------------------------------------------------------------------------


def part_masks(data: Data, positions: Tensor) -> dict[str, Tensor]:  # (A, 3)
    """Soft masks of the body and of each moving part, from true points."""
    truth, device = data.truth, data.images.device
    assert truth.part is not None and truth.motion_names is not None
    masks = {}
    for number, name in enumerate(["body", *truth.motion_names.tolist()]):
        own = torch.from_numpy(truth.part == number - 1).to(device)
        wide = torch.full((int(own.sum()),), 2.0 / data.box, device=device)
        masks[name] = soft_mask(voxelize(positions[own], torch.ones_like(wide), wide, data.box), growth=0.0)
    return masks


def motion_table(data: Data, seed: int) -> dict[str, Any]:
    """All images brought to one state beside the plain reconstruction."""
    truth, device = data.truth, data.images.device
    rows = np.flatnonzero(data.used)
    real = np.flatnonzero(
        data.used & truth.real & (np.ones(len(data.z), bool) if truth.present is None else truth.present)
    )
    middle = np.median(data.z[real], axis=0)
    near = (np.square(data.z[real] - middle) / data.variance[real].mean(0)).sum(1).argsort()
    point = data.z[real[near[0]]]
    positions = point_positions(truth, real[near[:NEAREST]], device).mean(0)
    deformed = data.model.deform(point[None])
    reference, densities = deformed.positions[0], deformed.densities[0]
    began = synchronised(device)
    parts = find_parts(data.model, data.z[rows], reference, seed=seed)
    windows = part_windows(reference.cpu().numpy(), parts.labels, data.box, SEAM_PIXELS * 2 / data.box).to(device)
    motions = particle_motions(data.model, data.z, parts.weights, reference, densities)
    blur = position_uncertainty(data.model, data.z, data.variance, parts.weights) * data.box / 2
    prepared = synchronised(device) - began
    calibration = calibrate(
        data.model,
        data.z,
        data.variance,
        parts.labels,
        parts.weights,
        reference,
        motions,
        images_for_calibration(data),
        seed,
    )
    right = calibration.apply(motions)
    print(
        f"{prepared:.1f} s for parts and motions, {synchronised(device) - began - prepared:.1f} s to put them right, "
    )
    print(f"which gains {calibration.gain:.2f} nats an image")
    maps: dict[str, Tensor] = {}
    for name, used, uncertain in (
        ("model's motion undone", motions, None),
        ("put right", right, None),
        ("put right, blur known", right, blur),
    ):
        began = synchronised(device)
        halves = []
        for half in range(2):
            sums = empty_part_sums(data.box, len(windows), device)
            for some, views in data.batches(rows[data.half[rows] == half]):
                own = None if uncertain is None else uncertain[some]
                accumulate_parts(sums, *views[:4], used.rows(torch.from_numpy(some).to(device)), views[4], own)
            halves.append([*sums])
        shown = (
            torch.ones(len(windows), data.box // 2, device=device) if uncertain is None else restored(blur, data.box)
        )
        maps |= joined(name, halves, windows, shown)
        print(f"{name}: {synchronised(device) - began:.1f} s")
    halves = []
    for half in range(2):
        sums = empty_sums(data.box, device)
        for _, views in data.batches(rows[data.half[rows] == half]):
            accumulate(sums, *views)
        halves.append([sums])
    maps |= joined("plain", halves, torch.ones_like(windows[:1]), torch.ones(1, data.box // 2, device=device))
    assert truth.sigmas is not None
    there = frame_densities(truth, torch.ones(1, dtype=torch.bool, device=device))
    sigmas = torch.as_tensor(truth.sigmas, device=device)
    true = band_limited_volumes(positions[None], there, sigmas, truth.box, data.box)[0]
    away = [
        round_trip(displacement_field(motions, windows, int(i)), reference)
        for i in np.random.default_rng(seed).choice(rows, 20)
    ]
    trip = torch.cat(away) * data.box / 2
    print(
        f"{len(windows)} parts, {parts.misfit_pixels:.2f} px from rigid; there and back: "
        f"rms {float(trip.square().mean()) ** 0.5:.4f} px, "
        f"{100 * float((trip < 0.1).float().mean()):.2f} % of Gaussians within 0.1 px; blur {blur.mean(0).tolist()} px"
    )
    result: dict[str, Any] = {"parts": len(windows)}
    for region, mask in part_masks(data, positions).items():
        curves = {name: fourier_shell_correlation(volume * mask, true * mask) for name, volume in maps.items()}
        areas = {name: float(fsc_area(curve, data.box)) for name, curve in curves.items()}
        print(f"\n{region}: masked FSC area " + ", ".join(f"{name} {value:.4f}" for name, value in areas.items()))
        print_shells({name: curve.tolist() for name, curve in curves.items()}, data)
        result[region] = {"area": areas, "curves": {name: curve.tolist() for name, curve in curves.items()}}
    return result


def joined(name: str, halves: list[list[Tensor]], windows: Tensor, shown: Tensor) -> dict[str, Tensor]:
    """The map of both half sets, each part with the prior that its half maps' FSC inside its window gives, and its
    shells times ``shown`` (K, D/2)."""
    volumes = []
    for window, first, second, factors in zip(windows, *halves, shown):
        pair = [solve(sums) * window for sums in (first, second)]
        prior = inverse_prior(first, fourier_shell_correlation(*pair))
        volumes.append(weight_shells(solve(first + second, prior), factors))
    return {name: blend(volumes, windows)}


# ---- domains -----------------------------------------------------------------------------------------------------


def domains_table(data: Data, seed: int) -> dict[str, Any]:
    """Errors of the poses of each moving part."""
    truth = data.truth
    assert truth.part is not None and truth.motion_names is not None and truth.rotations is not None
    assert truth.given_rotations is not None and truth.shifts is not None and truth.given_shifts is not None
    real = np.flatnonzero(truth.real & data.used)
    points = point_positions(truth, np.array([0]))[0]
    found = find_parts(data.model, data.z[real], data.model.gaussians.positions, most=4, seed=seed)
    gaussians = data.model.gaussians.positions.cpu()
    latents, images = Latents(data.z, data.variance), images_for_calibration(data)
    of_model = domain_motions(data.model, latents, found.labels)
    put_right = domain_motions(data.model, latents, found.labels, images)
    result = {}
    whole = np.arange(len(real))
    for number, name in enumerate(truth.motion_names.tolist()):
        chosen = truth.part == number
        there = whole
        if truth.removable is not None and truth.present is not None and truth.removable[chosen].all():
            there = np.flatnonzero(truth.present[real])
        rows = real[there]
        own = points[chosen]
        turned, moved = [], []
        for some in np.array_split(rows, -(-len(rows) // 500)):
            now = point_positions(truth, some)[:, chosen]
            rotation, shift, centre, _ = fit_motions(own, now, torch.ones(1, len(own)))
            turned.append(rotation[:, 0].double().numpy())
            moved.append((centre + shift)[:, 0].double().numpy())
        true = truth.rotations[rows] @ np.concatenate(turned)
        place = np.concatenate(moved)
        seen = (truth.rotations[rows] @ place[..., None])[:, :2, 0] * truth.box / 2 - truth.shifts[rows]
        # The domain with the most Gaussians near the part's own points.
        mean = torch.from_numpy(place.mean(0)).float()
        middle = own + (mean - own.mean(0))
        close = torch.cdist(gaussians, middle[:: max(1, len(middle) // 500)]).amin(1) < 6.0 / truth.box
        counts = np.bincount(found.labels[close.numpy()], minlength=found.labels.max() + 1)
        sizes = np.bincount(found.labels)
        label = int((counts / sizes).argmax())
        given = (data.rotations.cpu().numpy(), label)
        model_poses = domain_poses(data.model, of_model, *given).rotations[rows]
        poses = domain_poses(data.model, put_right, *given)
        poses = poses._replace(rotations=poses.rotations[rows], shift_angstrom=poses.shift_angstrom[rows])
        line = {"share": float(counts[label] / sizes[label])}
        for when, rotations in (
            ("before", truth.given_rotations[rows]),
            ("consensus pose corrected", data.rotations[rows].cpu().double().numpy()),
            ("model's motion", model_poses),
            ("after", poses.rotations),
        ):
            common = common_rotation(true, rotations.astype(np.float64))
            angle = np.degrees(np.arccos(((np.einsum("nij,nij->n", rotations, true @ common) - 1) / 2).clip(-1, 1)))
            line |= {f"{when}_deg": rms(angle), f"{when}_median_deg": float(np.median(angle))}
        pixel = data.model.configuration.pixel_size_angstrom
        centre = (poses.centre_voxels - data.box // 2) * 2 / data.box
        after = (poses.rotations @ centre)[:, :2] * data.box / 2
        after = after - data.shifts[rows].cpu().numpy() - poses.shift_angstrom / pixel
        error = after * pixel - seen * truth.apix
        error = error - (poses.rotations @ common_displacement(poses.rotations, error))[:, :2]
        line["after_place_angstrom"] = rms(error)
        print(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in line.items()))
        result[name] = line
    return result


def print_shells(curves: dict[str, list[float]], data: Data) -> None:
    """A row for each curve, at a few shells."""
    length = data.box * data.model.configuration.pixel_size_angstrom
    chosen = np.unique(np.linspace(1, data.box // 2 - 1, 14).round().astype(int))
    print(f"  {'A':<26}" + "".join(f"{length / shell:7.1f}" for shell in chosen))
    for name, curve in curves.items():
        print(f"  {name:<26}" + "".join(f"{curve[shell]:7.2f}" for shell in chosen))


def main() -> None:
    """Read the jobs' directories and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("simulate", "preprocess", "train"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--states", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tables", nargs="+", default=["command", "states", "motion", "domains"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    data = load(given)
    result: dict[str, Any] = {}
    if "command" in given.tables:
        result["command"] = command_table(data, given)
    if "states" in given.tables:
        result["states"] = states_table(data, given.states, given.seed)
    if "motion" in given.tables:
        result["motion"] = motion_table(data, given.seed)
    if "domains" in given.tables:
        result["domains"] = domains_table(data, given.seed)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
