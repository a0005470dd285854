"""Time the kernels against their floors and print one table: ``python tests/benchmarks/kernels.py``.

The floor of a kernel is the larger of its arithmetic over the matrix rate and its bytes over the copy
bandwidth, both measured in the same run. Bytes: each input read once, each output written once. Runs on the
GPU where there is one, else on the CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gaussianem_core.imaging.likelihood import image_likelihood
from gaussianem_core.imaging.projection import project
from gaussianem_core.imaging.voxelization import voxelize
from gaussianem_core.model.pair_decoder import decode_pairs

WIDTH, HEADS, LAYERS = 128, 512, 2


class Row(NamedTuple):
    """One line: times in ms; operations and bytes that cannot be avoided."""

    name: str
    forward: float
    both: float
    operations: float
    bytes_moved: float


def measure(run: Callable[[], object], device: torch.device, repeats: int = 15) -> float:
    """Median milliseconds; on CUDA of replays of a graph of five calls."""
    for _ in range(3):
        run()
    times = []
    if device.type == "cpu":
        for _ in range(repeats):
            start = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(5):
            run()
    graph.replay()
    for _ in range(repeats):
        start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start_event.record()
        graph.replay()
        end_event.record()
        torch.cuda.synchronize()
        times.append(start_event.elapsed_time(end_event) / 5)
    return statistics.median(times)


def ceilings(device: torch.device) -> tuple[float, float]:
    """Matrix rate (operations/s; bfloat16 on CUDA, float32 on the CPU) and copy bandwidth (bytes/s)."""
    cuda = device.type == "cuda"
    size = 8192 if cuda else 1024
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if cuda else torch.float32)
    b = torch.randn_like(a)
    rate = 2 * size**3 / measure(lambda: a @ b, device, 5) * 1e3
    source = torch.randn(2**28 if cuda else 2**24, device=device)
    target = torch.empty_like(source)
    return rate, 8 * source.numel() / measure(lambda: target.copy_(source), device, 5) * 1e3


def differentiate(run: Callable[[], Tensor], inputs: Sequence[Tensor]) -> Callable[[], object]:
    gradient = torch.randn_like(run())
    return lambda: torch.autograd.grad(run(), inputs, gradient)


def timed(name: str, run: Callable[[], Tensor], inputs: Sequence[Tensor], operations: float, moved: float) -> Row:
    device = inputs[0].device
    with torch.no_grad():
        forward = measure(run, device)
    return Row(name, forward, measure(differentiate(run, inputs), device), operations, moved)


def scene(images: int, count: int, box: int, device: torch.device) -> tuple[Tensor, ...]:
    """Positions in a ball of 0.7 of the box, densities, sigmas of 0.5 to 1 pixel, poses."""
    direction = torch.nn.functional.normalize(torch.randn(images, count, 3, device=device), dim=-1)
    positions = (0.7 * direction * torch.rand(images, count, 1, device=device) ** (1 / 3)).requires_grad_()
    densities = torch.rand(images, count, device=device).requires_grad_()
    sigmas = ((torch.rand(count, device=device) + 1) / box).requires_grad_()
    rotations = torch.linalg.qr(torch.randn(images, 3, 3, device=device))[0]
    return positions, densities, sigmas, rotations, torch.randn(images, 2, device=device)


def projector_row(images: int, count: int, box: int, backend: str, device: torch.device) -> Row:
    positions, densities, sigmas, rotations, shifts = scene(images, count, box, device)

    def run() -> Tensor:
        return project(
            positions,
            densities,
            sigmas,
            rotations,
            shifts,
            box,
            backend=backend,
            sigma_max=2 / box,  # type: ignore[arg-type]
        )

    moved = 4 * (4 * positions.shape[0] * count + images * box * box)
    return timed(f"project {backend} B={images} N={count} box={box}", run, (positions, densities, sigmas), 0, moved)


def voxelizer_row(count: int, box: int, device: torch.device) -> Row:
    positions, densities, sigmas, _, _ = scene(1, count, box, device)

    def run() -> Tensor:
        return voxelize(positions, densities, sigmas, box, sigma_max=2 / box)

    return timed(f"voxelize N={count} box={box}", run, (positions, densities, sigmas), 0, 4 * (5 * count + box**3))


def decoder_row(images: int, count: int, fused: bool, device: torch.device) -> Row:
    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, device=device)).requires_grad_()

    gain = (2 / WIDTH) ** 0.5
    weights = [normal(WIDTH, WIDTH, scale=gain) for _ in range(LAYERS)]
    biases = [normal(WIDTH, scale=0.1) for _ in range(LAYERS)]
    heads = normal(HEADS, WIDTH, scale=gain), normal(HEADS, scale=0.1)
    out = normal(4, HEADS, scale=(2 / HEADS) ** 0.5), normal(4)
    z_part, gaussian_part = normal(images, WIDTH), normal(count, WIDTH)

    def run() -> Tensor:
        if fused:
            return decode_pairs(z_part, gaussian_part, weights, biases, *heads, *out)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            return decode_pairs(z_part, gaussian_part, weights, biases, *heads, *out, fused=False)

    operations = 2 * images * count * (LAYERS * WIDTH**2 + HEADS * WIDTH + 4 * HEADS)
    name = f"decode {'fused' if fused else 'plain'} B={images} N={count}"
    return timed(name, run, [z_part, gaussian_part, *weights, *biases, *heads, *out], operations, 16 * images * count)


def likelihood_row(images: int, box: int, fused: bool, device: torch.device) -> Row:
    projection = torch.randn(images, box, box, device=device, requires_grad=True)
    image = torch.randn(images, box, box // 2 + 1, dtype=torch.complex64, device=device)
    optics = torch.tensor([box, 1.5, 15000, 15200, 30, 300, 2.7, 0.1, 0], device=device).repeat(images, 1)
    weight = torch.ones(box // 2 + 1, device=device)

    def run() -> Tensor:
        return image_likelihood(projection, image, optics, weight, 0.2, None, fused).data

    name = f"likelihood {'fused' if fused else 'plain'} B={images} box={box}"
    return timed(name, run, [projection], 0, 16 * projection.numel())


def main() -> None:
    """Print the table for the sizes of the guide, or small ones on a CPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(parser.parse_args().device)
    torch.manual_seed(0)
    if device.type == "cuda":
        print(torch.cuda.get_device_name(device))
    else:
        print(f"CPU, {torch.get_num_threads()} threads")
    rate, bandwidth = ceilings(device)
    print(f"matrix products {rate / 1e12:.1f} TFLOP/s, copy {bandwidth / 1e9:.0f} GB/s (read + written)")
    print(f"{'kernel':44} {'forward ms':>10} {'both ms':>10} {'floor ms':>9} {'floor both':>10} {'share':>6}")
    cuda = device.type == "cuda"
    rows: list[Callable[[], Row]] = []
    if cuda:
        for images, count, box in ((32, 5965, 128), (128, 5965, 128), (32, 20000, 256), (128, 20000, 256)):
            rows.append(lambda b=images, n=count: decoder_row(b, n, True, device))  # type: ignore[misc]
            rows.append(lambda b=images, n=count, d=box: projector_row(b, n, d, "triton", device))  # type: ignore[misc]
            for fused in (True, False):
                rows.append(lambda b=images, d=box, f=fused: likelihood_row(b, d, f, device))  # type: ignore[misc]
        rows.append(lambda: decoder_row(32, 5965, False, device))
        rows += [lambda: voxelizer_row(6000, 128, device), lambda: voxelizer_row(20000, 256, device)]
    else:
        for box, count in ((32, 500), (64, 3000)):
            for backend in ("cpu", "reference"):
                rows.append(
                    lambda n=count, d=box, name=backend: projector_row(32, n, d, name, device)  # type: ignore[misc]
                )
        rows += [lambda: voxelizer_row(6000, 128, device), lambda: decoder_row(32, 500, False, device)]
        rows.append(lambda: likelihood_row(32, 64, False, device))
    for make in rows:
        row = make()
        floor = 1e3 * max(row.operations / rate, row.bytes_moved / bandwidth)
        both = 1e3 * max(3 * row.operations / rate, 2 * row.bytes_moved / bandwidth)
        print(f"{row.name:44} {row.forward:10.4f} {row.both:10.4f} {floor:9.4f} {both:10.4f} {both / row.both:6.1%}")
        if cuda:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
