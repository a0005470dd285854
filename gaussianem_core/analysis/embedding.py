"""UMAP: the latents in a plane, computed in a process of its own beside the rest of an analysis.

Most of its time goes into compiling UMAP, on one core and with Python's lock held:

    python -m gaussianem_core.analysis.embedding     latents and seed from its input, the plane to its output
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import warnings
from importlib.util import find_spec
from types import ModuleType, TracebackType

import numpy as np

from gaussianem_core.job.events import JobLog
from gaussianem_core.runtime.interpreter import python
from gaussianem_core.runtime.neighbours import neighbour_tree
from gaussianem_core.runtime.pipe import read_message, write_message

SHOWN = 50_000
"""Above this many particles UMAP shows a sample: more points hide each other in a picture."""
EMBEDDED = 10_000
"""Largest number of particles that UMAP embeds, which runs on one core to be reproducible; others are placed among
them."""
EPOCHS_OF_MANY = 200
"""Epochs of UMAP's layout where a sample is embedded: its own default for more than 10,000 points."""
PLACED_BY = 5
"""Number of embedded particles from which another one's place is interpolated."""
LOOK_SECONDS = 0.2


class Embedding:
    """UMAP of the latents ``z`` (N, zdim), or of a random sample where there are more than SHOWN.

    Entered, it computes; left, it stops. ``rows`` (n,) are those of ``z`` that are shown.
    """

    def __init__(self, z: np.ndarray, seed: int) -> None:
        self.rows = np.arange(len(z))
        if len(z) > SHOWN:
            self.rows = np.sort(np.random.default_rng(seed).choice(len(z), SHOWN, replace=False))
        self._z, self._seed = z[self.rows], seed

    def __enter__(self) -> Embedding:
        self._found = tempfile.TemporaryFile()
        with tempfile.TemporaryFile() as given:
            write_message(given, {"seed": self._seed}, {"z": self._z})
            given.seek(0)
            words = python("-m", "gaussianem_core.analysis.embedding")
            self._process = subprocess.Popen(words, stdin=given, stdout=self._found)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._found.close()

    def plane(self, log: JobLog) -> np.ndarray:  # -> (n, 2)
        """Wait for the coordinates; empty, with a warning, where UMAP failed. Raises AbortRequested on request."""
        while self._process.poll() is None:
            log.check_abort()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(LOOK_SECONDS)
        if self._process.returncode:
            log.message(
                f"UMAP ended with exit code {self._process.returncode}, so its plot is left out; what it printed "
                "says why.",
                "warning",
            )
            return np.zeros((0, 2), np.float32)
        self._found.seek(0)
        return read_message(self._found)[1]["plane"]


def main() -> None:
    """Embed the latents of a message from the input; the answer goes to the output (see `runtime.pipe`)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the analysis, which gets it too, ends this process
    found, sys.stdout = sys.stdout.buffer, sys.stderr
    header, arrays = read_message(sys.stdin.buffer)
    write_message(found, {}, {"plane": umap_plane(arrays["z"], int(header["seed"]))})


def umap_available() -> bool:
    """Whether the package umap-learn can be imported."""
    return find_spec("umap") is not None


def umap_plane(z: np.ndarray, seed: int) -> np.ndarray:  # (N, zdim) -> (N, 2)
    """UMAP of the latents (McInnes et al., arXiv 1802.03426), reproducible by its seed.

    Of more than EMBEDDED particles, that many at random are embedded. Each other one is placed at the mean of its
    PLACED_BY nearest of those, weighted by the inverse of their distances.
    """
    if len(z) <= EMBEDDED:
        return _umap(z, seed)
    chosen = np.zeros(len(z), bool)
    chosen[np.random.default_rng(seed).choice(len(z), EMBEDDED, replace=False)] = True
    plane = np.empty((len(z), 2), np.float32)
    plane[chosen] = _umap(z[chosen], seed, epochs=EPOCHS_OF_MANY)
    distance, index = neighbour_tree(z[chosen]).query(z[~chosen], k=PLACED_BY, workers=-1)
    weight = 1 / np.maximum(distance, 1e-12)
    plane[~chosen] = np.einsum("nk,nkd->nd", weight / weight.sum(axis=1, keepdims=True), plane[chosen][index])
    return plane


def _umap(z: np.ndarray, seed: int, epochs: int | None = None) -> np.ndarray:  # (N, zdim) -> (N, 2)
    # Neighbours from a k-d tree are exact, and compiling UMAP's own search takes longer than all the rest.
    distance, index = neighbour_tree(z).query(z, k=range(1, min(15, len(z) - 1) + 1), workers=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of parts that are not installed, its dependencies of their future
        from umap import UMAP, layouts, umap_

        keep_compiled(layouts, umap_)
        plane = UMAP(
            n_neighbors=index.shape[1],
            n_epochs=epochs,
            precomputed_knn=(index.astype(np.int32), distance.astype(np.float32)),
            random_state=seed,
            n_jobs=1,
            init="pca",
        ).fit_transform(z)
    return np.asarray(plane, dtype=np.float32)


def keep_compiled(*modules: ModuleType) -> None:
    """Have numba keep what it compiles of these modules on disk, where a folder for it can be written (see
    `kernels.projection_numba`); of a UMAP's 14 s compiling takes 7."""
    from numba.core.dispatcher import Dispatcher

    for module in modules:
        for function in vars(module).values():
            if isinstance(function, Dispatcher):
                with contextlib.suppress(RuntimeError):
                    function.enable_caching()


if __name__ == "__main__":
    main()
