"""UMAP: it keeps groups apart, and runs in a process of its own that an analysis waits for, or ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gaussianem_core.analysis import embedding
from gaussianem_core.analysis.embedding import Embedding
from gaussianem_core.errors import AbortRequested
from gaussianem_core.job.events import ABORT, JobLog, read_events
from gaussianem_core.runtime import neighbours
from gaussianem_core.runtime.processes import start_ticks

pytestmark = pytest.mark.skipif(not embedding.umap_available(), reason="umap-learn is not installed")


def latents(count: int, seed: int = 0) -> np.ndarray:  # -> (count, 4)
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def test_umap_keeps_clusters_apart() -> None:
    z = np.concatenate([latents(60), latents(60, 1) + 40])
    plane = embedding.umap_plane(z, 0)
    within = np.linalg.norm(plane[:60] - plane[:60].mean(axis=0), axis=1).mean()
    assert np.linalg.norm(plane[:60].mean(axis=0) - plane[60:].mean(axis=0)) > 3 * within
    np.testing.assert_array_equal(plane, embedding.umap_plane(z, 0))


def test_umap_places_the_rest_beside_their_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    group = np.arange(600) % 3
    z = (np.eye(4)[group] * 20 + generator.normal(size=(600, 4))).astype(np.float32)
    monkeypatch.setattr(embedding, "EMBEDDED", 150)
    plane = embedding.umap_plane(z, 0)
    assert plane.shape == (600, 2) and np.isfinite(plane).all()
    nearest = neighbours.neighbour_tree(plane).query(plane, k=11)[1][:, 1:]
    assert (group[nearest] == group[:, None]).mean() > 0.99
    np.testing.assert_array_equal(plane, embedding.umap_plane(z, 0))


def test_the_process_beside_finds_the_same_plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "SHOWN", 100)
    z = latents(150)
    with JobLog(tmp_path, []) as log, Embedding(z, 3) as umap:
        plane = umap.plane(log)
    assert len(umap.rows) == 100 and (np.diff(umap.rows) > 0).all()
    np.testing.assert_array_equal(plane, embedding.umap_plane(z[umap.rows], 3))


def test_where_umap_fails_the_analysis_goes_on_and_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with JobLog(tmp_path, []) as log, Embedding(np.full((20, 2), np.nan), 0) as umap:
        assert umap.plane(log).shape == (0, 2)
    told = [event for event in read_events(tmp_path / "events.jsonl")[0] if event.get("level") == "warning"]
    assert "exit code 1" in told[0]["text"] and "finite" in capfd.readouterr().err


def test_a_request_to_stop_ends_the_process(tmp_path: Path) -> None:
    with pytest.raises(AbortRequested), JobLog(tmp_path, []) as log, Embedding(latents(2000), 0) as umap:
        number = umap._process.pid
        assert start_ticks(number)
        (tmp_path / ABORT).touch()
        umap.plane(log)
    assert not start_ticks(number)
