"""Images reach the training whole and in order, from memory and from disk; scratch copies come and go."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussianem_core.errors import InputError, ResourceError
from gaussianem_core.runtime.scratch import scratch_copy
from gaussianem_core.training.image_feed import ImageFeed

IMAGES = np.random.default_rng(0).normal(size=(50, 8, 8)).astype(np.float32)
CPU = torch.device("cpu")


def read(rows: np.ndarray) -> np.ndarray:
    return IMAGES[rows]


def make(place: str, reader: Callable[[np.ndarray], np.ndarray] = read, free: int = 1 << 30) -> ImageFeed:
    return ImageFeed(reader, 50, 8, -1.0, CPU, place, free)


@pytest.mark.parametrize("place", ["host", "disk"])
def test_batches_cover_the_order_with_the_sign(place: str) -> None:
    feed = make(place)
    order = np.random.default_rng(1).permutation(50)
    seen = []
    for rows, images in feed.batches(order, 8):
        found = feed.get(rows) if images is None else images
        np.testing.assert_array_equal(found.numpy(), -IMAGES[rows.numpy()])
        seen.append(rows.numpy())
    np.testing.assert_array_equal(np.concatenate(seen), order[:48])  # the rest makes no whole batch


@pytest.mark.parametrize("place", ["host", "disk"])
def test_subset_renumbers_rows(place: str) -> None:
    rows = np.array([3, 7, 41])
    part = make(place).subset(rows)
    np.testing.assert_array_equal(part.get(np.array([2, 0])).numpy(), -IMAGES[[41, 3]])
    assert part.count == 3


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
    assert len(asked) < 20  # one taken, READ_AHEAD waiting, one in hand


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
