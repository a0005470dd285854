"""What the explorer shows of a job: its particles, selections, the latent in 3D, the path, and the worker that decodes.

The page, its plots, 3D views and panels share one session: they change it by its methods and follow its signals.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import QObject, Qt, Signal

from gaussianem_core.analysis.latent_density import LatentDensity
from gaussianem_core.errors import InputError
from gaussianem_gui.explorer.decoder_client import Callbacks, Consensus, Decoded, DecoderClient
from gaussianem_gui.explorer.particle_columns import ParticleColumns, load_table
from gaussianem_gui.explorer.reconstruct_job import selection_values, state_values
from gaussianem_gui.explorer.select_job import Exported
from gaussianem_gui.explorer.selections import Selections
from gaussianem_gui.explorer.sources import Sources, find_sources
from gaussianem_gui.views.explorer.colours import Colouring
from gaussianem_gui.views.project_model import ProjectModel
from gaussianem_gui.views.toolkit.tasks import Background

NO_NETWORK = "nothing here decodes them. Reconstruct makes maps of the particles selected, or around the chosen point."


class _Bridge(QObject):
    """Carries the decoder's answers to the window's thread; it outlives the reader thread that emits."""

    ready = Signal(object)
    decoded = Signal(object)
    failed = Signal(str)
    refused = Signal(int, str)


class ExplorerSession(QObject):
    """The job that is explored. ``sources`` and ``table`` are there from ``opened`` to ``closed``."""

    opened = Signal()
    closed = Signal()
    notOpened = Signal(str)  # why the job cannot be explored
    modelReady = Signal()  # consensus is there: the worker decodes
    selectionChanged = Signal()
    namedChanged = Signal()  # the named selections
    latentChanged = Signal()  # the latent in 3D, or the one that is kept
    pictureWanted = Signal()  # the latent in 3D is to be decoded
    decoded = Signal(object)  # Decoded, of any channel
    unanswered = Signal(int)  # number of a request that gets no answer any more; -1: none does
    particlePicked = Signal(int)  # row
    pathChanged = Signal()  # the path or its anchors
    colouringChanged = Signal()
    said = Signal(str)  # a line below the 3D view
    noted = Signal(str, str, str)  # kind, title, text
    morphRequested = Signal(str)  # job that holds z.txt
    reconstructRequested = Signal(dict)  # options of the job

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.model: ProjectModel | None = None
        self.mode = "replace"  # how the next shape combines with the selection
        self._background = Background(self)
        self._closing = Background(self)  # of workers that end
        self._decoder: DecoderClient | None = None
        self._bridge: _Bridge | None = None
        self._empty()

    def _empty(self) -> None:
        self.sources: Sources | None = None
        self.table: ParticleColumns | None = None
        self.selections = Selections(0)
        self.density: LatentDensity | None = None
        self.consensus: Consensus | None = None
        self.latent: np.ndarray | None = None  # (zdim,) shown in 3D
        self.kept: np.ndarray | None = None  # (zdim,) shown beside it
        self.particle = -1  # row whose latent is shown, -1 if it is no particle's
        self.mean_of = 0  # particles whose mean the latent is, 0 if it is no mean of a selection
        self.frame = -1  # of the path that is shown, -1 if the latent is not of the path
        self.picture: Decoded | None = None  # what is shown in 3D
        self.path = np.zeros((0, 0))  # (P, zdim)
        self.anchors: list[np.ndarray] = []  # each (zdim,)
        self.colouring = Colouring()
        self.exported: Exported | None = None

    # --- the job ---------------------------------------------------------------------------------------------------

    @property
    def job(self) -> str:
        """Job that is shown, "" if none."""
        return self.sources.job if self.sources is not None else ""

    @property
    def root(self) -> Path:
        """The project's directory; the current one where no project is open."""
        return self.model.root if self.model is not None else Path.cwd()

    def open(self, model: ProjectModel, name: str) -> None:
        """Show a Train, Analyze or Decode job, or an Import job with latents, as soon as its files are read;
        ``notOpened`` comes where they cannot be."""
        self.close()
        self.model = model
        project = model.project

        def read() -> tuple[Sources, ParticleColumns]:
            sources = find_sources(project, name)
            return sources, load_table(sources)

        self._background.run("table", read, self._take_table, self._table_failed)

    def _table_failed(self, error: Exception) -> None:
        self.notOpened.emit(words_of(error))

    def _take_table(self, found: tuple[Sources, ParticleColumns]) -> None:
        self.sources, self.table = sources, table = found
        self.selections = Selections(len(table), sources.directory, sources.job)
        self._start_decoder(sources)
        self._background.run("density", lambda: LatentDensity(table.z), self._take_density)
        self.opened.emit()
        self.namedChanged.emit()
        self.selectionChanged.emit()
        if self.selections.problem:
            self.noted.emit("warning", "Selections", self.selections.problem)

    def _take_density(self, density: LatentDensity) -> None:
        self.density = density

    def close(self) -> None:
        """Let go of the job and end its worker."""
        self._background.cancel_all()
        self._end_decoder()
        self._empty()
        self.closed.emit()
        self.namedChanged.emit()
        self.selectionChanged.emit()

    def leave(self) -> None:
        """Let go of the job and of the project."""
        self.close()
        self.model = None

    def shut_down(self) -> None:
        """End the worker; call before the window goes."""
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            decoder.close()

    # --- decoding --------------------------------------------------------------------------------------------------

    @property
    def decoder(self) -> DecoderClient | None:
        """The worker that decodes; None where it stopped or the job has no network."""
        return self._decoder

    def _start_decoder(self, sources: Sources) -> None:
        if sources.weights is None:
            self.said.emit(f"Latents of {sources.program}: {NO_NETWORK}")
            return
        bridge = _Bridge()
        bridge.ready.connect(self._take_model, Qt.ConnectionType.QueuedConnection)
        bridge.decoded.connect(self._take_decoded, Qt.ConnectionType.QueuedConnection)
        bridge.failed.connect(self._decoder_failed, Qt.ConnectionType.QueuedConnection)
        bridge.refused.connect(self._refused, Qt.ConnectionType.QueuedConnection)
        self._bridge = bridge
        decoder = DecoderClient(
            Callbacks(bridge.ready.emit, bridge.decoded.emit, bridge.failed.emit, bridge.refused.emit)
        )
        self._decoder = decoder
        self.said.emit("Loading the model …")
        self._background.run("start", lambda: decoder.start(sources), lambda _r: None)

    def _current(self) -> bool:
        """False for what the worker of another job had still to say."""
        return self.sender() is None or self.sender() is self._bridge

    def _take_model(self, consensus: Consensus) -> None:
        if self._current():
            self.consensus = consensus
            self.modelReady.emit()

    def _take_decoded(self, answer: Decoded) -> None:
        if self._current():
            self.decoded.emit(answer)

    def _refused(self, number: int, text: str) -> None:
        if self._current():
            self.said.emit(text)
            self.unanswered.emit(number)

    def _decoder_failed(self, text: str) -> None:
        if self._current():
            self._end_decoder()
            self.unanswered.emit(-1)
            self.said.emit("The decoder stopped. Click in a plot to start it again.")
            self.noted.emit("danger", "The decoder stopped", text)

    def _end_decoder(self) -> None:
        """Close the worker, in the background; the bridge lives until the reader thread has ended."""
        decoder, bridge = self._decoder, self._bridge
        self._decoder = self._bridge = None
        if decoder is not None:
            self._closing.run(f"close-{id(decoder)}", lambda: (decoder.close(), bridge)[0], lambda _r: None)

    def request(self, z: np.ndarray, *, channel: str, longest: int = 0, volumes: bool = True) -> int:
        """Ask for a picture of each latent, z (zdim,) or (P, zdim); returns the request's number, -1 where no job is
        open or it has no network that decodes.

        Answers come in ``decoded``; a worker that had stopped is started again. ``longest``: voxels a side, 0 for the
        model's own. ``volumes`` False: Gaussians alone. Earlier requests of the channel are dropped.
        """
        if self._decoder is None and self.sources is not None:
            self._start_decoder(self.sources)
        if self._decoder is None:
            return -1
        return self._decoder.request(z, channel=channel, longest=longest, volumes=volumes)

    def show_latent(self, z: np.ndarray, particle: int = -1, mean_of: int = 0) -> None:  # (zdim,)
        """Show a latent in 3D as soon as it is decoded; ``particle`` is its row if it is a particle's, ``mean_of`` how
        many selected particles it is the mean of."""
        self.latent, self.particle, self.mean_of, self.frame = z, particle, mean_of, -1
        self.latentChanged.emit()
        self.pictureWanted.emit()

    def show_frame(self, index: int, picture: Decoded) -> None:
        """Take up frame ``index`` of the path, counted from 0, as what is shown; ``picture`` is it decoded."""
        self.latent, self.particle, self.frame, self.picture = self.path[index], -1, index, picture
        self.mean_of = 0
        self.latentChanged.emit()

    def pick_particle(self, row: int, z: np.ndarray | None = None) -> None:
        """Show the particle of ``row``, which was clicked, or the latent ``z`` (zdim,) for which the click stands."""
        assert self.table is not None
        if z is None:
            self.show_latent(self.table.z[row].astype(np.float64), row)
        else:
            self.show_latent(z)
        self.particlePicked.emit(row)

    def keep_latent(self, keep: bool = True) -> None:
        """Keep the latent that is shown, or let go of the one that is kept."""
        self.kept = self.latent.copy() if keep and self.latent is not None else None
        self.latentChanged.emit()

    # --- maps ------------------------------------------------------------------------------------------------------

    def reconstruct(self, points: np.ndarray | None = None) -> None:  # (P, zdim)
        """Ask for the form of a Reconstruct job: of the particles around each of ``points``, or, without, of those that
        are selected, or, where none is, of those around the latent in 3D."""
        sources, model, table, book = self.sources, self.model, self.table, self.selections
        if sources is None or model is None or table is None:
            return
        if points is None and not book.selected and self.latent is not None:
            points = self.latent[None]
        if points is not None:
            chosen = points.copy()
            model.do(
                "Write the states",
                lambda project: state_values(project, sources, chosen, len(table)),
                self.reconstructRequested.emit,
            )
        elif book.selected:
            mask, steps = book.mask.copy(), book.steps
            model.do(
                "Write the selection",
                lambda project: selection_values(project, sources, mask, steps=steps),
                self.reconstructRequested.emit,
            )

    # --- the path --------------------------------------------------------------------------------------------------

    def set_anchors(self, anchors: list[np.ndarray]) -> None:  # each (zdim,)
        """Set the latents through which a path is to go."""
        self.anchors = anchors
        self.pathChanged.emit()

    def set_path(self, path: np.ndarray) -> None:  # (P, zdim)
        """Set the path that is decoded and played."""
        self.path = path
        self.pathChanged.emit()

    # --- selections ------------------------------------------------------------------------------------------------

    def select(self, mask: np.ndarray, step: dict[str, Any], mode: str = "") -> None:  # (N,) bool
        """Combine particles with the selection by ``mode`` (replace, add, subtract, intersect; "" for the session's);
        ``step`` says how they were chosen."""
        self.selections.apply(mask, mode or self.mode, {"job": self.job, "time": time.time(), **step})
        self.selectionChanged.emit()

    def undo(self) -> None:
        """Undo the last change of the selection."""
        if self.selections.undo():
            self.selectionChanged.emit()

    def redo(self) -> None:
        """Redo the change of the selection that was undone last."""
        if self.selections.redo():
            self.selectionChanged.emit()

    def invert(self) -> None:
        """Select exactly the particles that are not selected."""
        if self.table is not None:
            self.selections.invert()
            self.selectionChanged.emit()

    def clear_selection(self) -> None:
        """Select nothing."""
        self.selections.clear()
        self.selectionChanged.emit()

    def keep_selection(self, name: str) -> None:
        """Save the selection under a name, replacing one of that name. Raises InputError for an empty name or
        selection."""
        self.selections.keep(name)
        if self.selections.problem:
            self.noted.emit("warning", "Selections", self.selections.problem)
        self.namedChanged.emit()
        self.selectionChanged.emit()

    def use_selection(self, name: str) -> None:
        """Combine a named selection with the current one, as the mode says. Raises InputError if there is none of that
        name."""
        self.selections.use(name, self.mode)
        self.selectionChanged.emit()

    def remove_selection(self, name: str) -> None:
        """Delete a named selection. Raises InputError if there is none of that name."""
        self.selections.remove(name)
        self.namedChanged.emit()

    # --- small -----------------------------------------------------------------------------------------------------

    def set_colouring(self, colouring: Colouring) -> None:
        """Colour the particles of all plots by another column."""
        self.colouring = colouring
        self.colouringChanged.emit()

    def write_figure(self, write: Callable[[], Path]) -> None:
        """Run ``write``, which writes a figure and returns its file, in a worker and say where it is."""
        self._background.run(
            f"figure-{time.monotonic_ns()}",
            write,
            lambda path: self.noted.emit("success", "Saved", str(path)),
            self.say_error,
        )

    def say_error(self, error: Exception) -> None:
        """Tell the user in ``noted`` what went wrong."""
        self.noted.emit("danger", "That did not work", words_of(error))


def words_of(error: Exception) -> str:
    """An error in words: those of InputError are written for the user."""
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
