"""The decoder process: its answers equal the model's, the newest request wins, faults end in words."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from trained import write_model

from gaussianem_core.commands.serve import shrink
from gaussianem_core.model.trained_model import load_model
from gaussianem_core.runtime.pipe import PipeClosed, read_message, write_message
from gaussianem_gui.explorer.decoder_client import Callbacks, Decoded, DecoderClient
from gaussianem_gui.explorer.sources import Sources


def sources(folder: Path) -> Sources:
    return Sources(
        "Train/job001/",
        "Train job001",
        folder,
        folder,
        folder / "weights.0.output.pkl",
        folder / "weights.0.pkl",
        folder / "cfg.json",
        folder / "point_cloud.ply",
    )


class Client:
    """A decoder whose answers are collected."""

    def __init__(self, folder: Path) -> None:
        self.models, self.answers, self.failures, self.refusals = [], [], [], []
        self.changed = threading.Condition()
        self.decoder = DecoderClient(
            Callbacks(
                lambda m: self._add(self.models, m),
                lambda d: self._add(self.answers, d),
                lambda t: self._add(self.failures, t),
                lambda n, t: self._add(self.refusals, (n, t)),
            )
        )
        self.decoder.start(sources(folder), "cpu")

    def _add(self, where, what) -> None:
        with self.changed:
            where.append(what)
            self.changed.notify_all()

    def wait(self, test, seconds: float = 120.0) -> None:
        with self.changed:
            assert self.changed.wait_for(test, seconds), (self.failures, self.refusals)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    z = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    return write_model(tmp_path_factory.mktemp("model"), z)


@pytest.fixture(scope="module")
def client(folder):
    client = Client(folder)
    client.wait(lambda: client.models or client.failures)
    yield client
    client.decoder.close()
    assert not client.decoder.alive()


def test_messages_survive_the_pipe_and_others_are_refused():
    stream = io.BytesIO()
    arrays = {"a": np.arange(6.0).reshape(2, 3), "none": np.zeros((0, 4), np.float32), "yes": np.array([True, False])}
    write_message(stream, {"id": 3, "text": "Å"}, arrays)
    with pytest.raises(ValueError, match="plain numbers"):
        write_message(io.BytesIO(), {}, {"o": np.array(["text"])})
    stream.seek(0)
    header, back = read_message(stream)
    assert header == {"id": 3, "text": "Å"}
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and np.array_equal(back[name], array)
    for damaged in (b"", b"\0\0\0\5{", b"\0\0\0\2{}", b"\xff\xff\xff\xff", stream.getvalue()[:-1]):
        with pytest.raises(PipeClosed):
            read_message(io.BytesIO(damaged))


def test_the_consensus_and_every_picture_are_the_models(client, folder):
    model = load_model(folder / "cfg.json", folder / "weights.0.pkl", folder / "point_cloud.ply", device="cpu")
    consensus = client.models[0]
    assert np.array_equal(consensus.positions, model.gaussians.positions.numpy())
    assert (consensus.zdim, consensus.box) == (3, 24)
    z = np.array([0.5, -1.0, 2.0])
    number = client.decoder.request(z)
    client.wait(lambda: any(d.id == number for d in client.answers))
    got: Decoded = client.answers[-1]
    wanted = model.deform(z[None])
    assert np.array_equal(got.positions, wanted.positions[0].numpy())
    volume = model.volume(wanted.positions[0], wanted.densities[0], 24).numpy()
    # one and the same code in another process; sums may run in another order
    assert np.allclose(got.volume, volume, atol=1e-6 * np.abs(volume).max())


def test_smaller_pictures_are_block_means():
    volume = torch.rand(8, 8, 8)
    assert torch.equal(shrink(volume, 0), volume) and torch.equal(shrink(volume, 8), volume)
    assert torch.allclose(shrink(volume, 5), volume.reshape(4, 2, 4, 2, 4, 2).mean(dim=(1, 3, 5)))


def test_while_dragging_the_newest_request_wins(client):
    before = len(client.answers)
    numbers = [client.decoder.request([i / 100, 0, 0]) for i in range(200)]
    client.wait(lambda: bool(client.answers) and client.answers[-1].id == numbers[-1])
    answered = [d.id for d in client.answers[before:]]
    assert answered == sorted(answered)
    assert len(answered) < 200  # stale ones were dropped, not worked off
    time.sleep(0.2)
    assert client.answers[-1].id == numbers[-1]


def test_a_series_gives_way_to_a_click_and_then_goes_on(client):
    before = len(client.answers)
    series = client.decoder.request(np.zeros((60, 3)), channel="series")
    client.wait(lambda: any(d.id == series for d in client.answers))
    click = client.decoder.request([1, 1, 1])
    client.wait(lambda: sum(d.id == series for d in client.answers[before:]) == 60)
    order = [d.id for d in client.answers[before:]]
    assert order.index(click) < len(order) - 1
    assert [d.index for d in client.answers[before:] if d.id == series] == list(range(60))


def test_a_faulty_request_is_answered_in_words_and_the_next_one_works(client):
    number = client.decoder.request(np.zeros(7))
    client.wait(lambda: client.refusals)
    assert client.refusals[-1][0] == number and "3 values" in client.refusals[-1][1]
    number = client.decoder.request(np.full(3, np.nan))
    client.wait(lambda: client.refusals[-1][0] == number)
    again = client.decoder.request(np.zeros(3))
    client.wait(lambda: bool(client.answers) and client.answers[-1].id == again)


def test_a_worker_that_cannot_start_or_dies_says_why(tmp_path, folder):
    write_model(tmp_path / "m", np.zeros((4, 3), np.float32))
    (tmp_path / "m" / "weights.0.pkl").write_bytes(b"not a checkpoint")
    broken = Client(tmp_path / "m")
    broken.wait(lambda: broken.failures)
    assert "weights.0.pkl" in broken.failures[0]
    broken.decoder.close()
    killed = Client(folder)
    killed.wait(lambda: killed.models)
    killed.decoder._process.kill()
    killed.wait(lambda: killed.failures)
    assert "unexpectedly" in killed.failures[0]
    killed.decoder.close()


def test_closing_while_it_loads_leaves_no_process(folder):
    client = Client(folder)
    client.decoder.request(np.zeros(3))
    client.decoder.close()
    assert not client.decoder.alive() and not client.failures
