"""Images reach the training whole and in order, from memory and from disk; scratch copies come and go."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussianem_core.errors import AbortRequested, InputError, ResourceError
from gaussianem_core.runtime.scratch import scratch_copy
from gaussianem_core.training import image_feed
from gaussianem_core.training.image_feed import ImageFeed

IMAGES = np.random.default_rng(0).normal(size=(50, 8, 8)).astype(np.float32)
HALVES = IMAGES.astype(np.float16).astype(np.float32)
CPU = torch.device("cpu")


def read(rows: np.ndarray) -> np.ndarray:
    return IMAGES[rows]


def make(place: str, reader: Callable[[np.ndarray], np.ndarray] = read, free: int = 1 << 30) -> ImageFeed:
    return ImageFeed(reader, 50, 8, True, CPU, place, free)


@pytest.mark.parametrize("place", ["host", "disk"])
@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_batches_cover_the_order_with_the_sign(place: str, stored: str) -> None:
    feed = make(place, lambda rows: HALVES[rows].astype(stored))
    order = np.random.default_rng(1).permutation(50)
    seen = []
    for rows, images in feed.batches(order, 8):
        found = feed.get(rows) if images is None else images
        assert found.dtype == torch.float32
        np.testing.assert_array_equal(found.numpy(), -HALVES[rows.numpy()])
        np.testing.assert_array_equal(feed.get(rows[:3]).numpy(), -HALVES[rows[:3].numpy()])
        seen.append(rows.numpy())
    np.testing.assert_array_equal(np.concatenate(seen), order[:48])  # the rest makes no whole batch


@pytest.mark.parametrize("place", ["host", "disk"])
def test_subset_renumbers_rows(place: str) -> None:
    rows = np.array([3, 7, 41])
    part = make(place).subset(rows)
    np.testing.assert_array_equal(part.get(np.array([2, 0])).numpy(), -IMAGES[[41, 3]])
    assert part.count == 3


@pytest.mark.parametrize("place", ["host", "disk"])
def test_what_float16_cannot_hold_is_clipped_alike_everywhere(place: str) -> None:
    broken = IMAGES.copy()
    broken[4, 2, 2] = 1e9
    np.testing.assert_array_equal(make(place, lambda rows: broken[rows]).get(np.array([4])), -broken[4:5].clip(max=6e4))


def test_auto_goes_to_disk_when_memory_is_short() -> None:
    assert make("auto").place == "host"
    assert make("auto", free=1000).place == "disk"
    with pytest.raises(ResourceError, match="needs a GPU"):
        make("gpu")


def test_a_failing_read_reaches_the_caller() -> None:
    def broken(rows: np.ndarray) -> np.ndarray:
        if 30 in rows:
            raise InputError("stack", "must be whole", "cut off", "Copy it again.")
        return IMAGES[rows]

    with pytest.raises(InputError, match="cut off"):
        list(make("disk", broken).batches(np.arange(50), 5))


def test_leaving_early_stops_the_reader() -> None:
    asked: list[int] = []

    def counting(rows: np.ndarray) -> np.ndarray:
        asked.append(len(rows))
        return IMAGES[rows]

    batches = make("disk", counting).batches(np.arange(50), 1)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(asked) < 20  # one taken, READ_AHEAD waiting


def test_a_stalled_disk_is_reported_and_can_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_feed, "PATIENCE_SECONDS", 0.02)
    stalled, reports = threading.Event(), []

    def stalling(rows: np.ndarray) -> np.ndarray:
        if 30 in rows:
            stalled.wait(30)
        return IMAGES[rows]

    def report(seconds: float) -> None:
        reports.append(seconds)
        if len(reports) == 3:
            raise AbortRequested("stopped on request")

    feed = ImageFeed(stalling, 50, 8, False, CPU, "disk", 0, waits=report)
    seen: list[int] = []
    with pytest.raises(AbortRequested):
        for rows, _ in feed.batches(np.arange(50), 5):
            seen.extend(rows.tolist())
    assert seen == list(range(30)) and reports == pytest.approx([0.02, 0.04, 0.06])
    stalled.set()


def test_reads_wait_for_a_distant_disk_together() -> None:
    together = threading.Barrier(4, timeout=20)  # breaks, as an error, where fewer read at once

    def distant(rows: np.ndarray) -> np.ndarray:
        together.wait()
        return IMAGES[rows]

    feed = make("disk", distant)
    np.testing.assert_array_equal(feed.get(np.arange(8)).numpy(), -IMAGES[:8])
    assert len(list(feed.batches(np.arange(48), 4))) == 12


def test_scratch_copy_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, scratch = tmp_path / "stack.mrcs", tmp_path / "scratch dir"
    source.write_bytes(b"images" * 1000)
    with scratch_copy(source, scratch) as copy:
        assert copy.read_bytes() == source.read_bytes() and copy.parent == scratch
    assert list(scratch.iterdir()) == [] and source.exists()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(ResourceError, match="6,000 bytes are needed"), scratch_copy(source, scratch):
        pass


@pytest.mark.parametrize("place", ["host", "disk"])
def test_images_come_wherever_they_are_kept(place: str) -> None:
    chunks = [np.array([3, 1]), np.array([49]), np.arange(10)]
    for chunk, (rows, images) in zip(chunks, make(place).images(chunks), strict=True):
        assert rows.tolist() == chunk.tolist() and images.dtype == torch.float32
        np.testing.assert_array_equal(images.numpy(), -IMAGES[chunk])
