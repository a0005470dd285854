"""The molecule in 3D: what was clicked, decoded quickly and then finely; a state kept beside it, the difference between
the two, and a map or atomic model laid over."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from PySide6.QtCore import QEvent, QSettings, Qt, QTimer, Signal
from PySide6.QtWidgets import QFileDialog, QFrame, QHBoxLayout, QSplitter

from gaussianem_core.io.atomic_model import place_in_box, read_backbone
from gaussianem_gui.explorer import figures
from gaussianem_gui.explorer.decoder_client import Decoded
from gaussianem_gui.explorer.volumes import load_volume, surface
from gaussianem_gui.views.explorer.chimerax_link import ChimeraXLink
from gaussianem_gui.views.explorer.figure_file import ask_figure
from gaussianem_gui.views.explorer.live_viewer import CLICK, LiveViewer
from gaussianem_gui.views.explorer.selection_mean import SelectionMean
from gaussianem_gui.views.explorer.session import NO_NETWORK, ExplorerSession
from gaussianem_gui.views.explorer.surfaces import difference_surfaces
from gaussianem_gui.views.plots.linked_cameras import link_cameras
from gaussianem_gui.views.plots.slices import PLANES
from gaussianem_gui.views.plots.surfaces import Mesh
from gaussianem_gui.views.toolkit.tasks import Background
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import (
    Elided,
    column,
    icon_button,
    keep_icon,
    line,
    restyle,
    row,
    tool_button,
)

MODEL_FILES = "Maps and models (*.mrc *.map *.cif *.mmcif *.pdb *.ent)"
MOST_WIDTH = 16_777_215  # Qt's own limit of a widget
FIGURE_SCALE = 3.0  # pixels of a written view a pixel of the screen
LARGEST_LIVE = {"cpu": 96, "cuda": 256}
QUICK_LIVE = 96  # voxels a side of the first picture after a click; a finer one follows where it is possible
LEAST_VIEW = 130  # pixels high, with the tools unfolded in the smallest window too
REST_MILLISECONDS = 300  # without a click or drag before it follows


class Scene(QFrame):
    """The view of the session's latent, one of the latent that is kept, and the line that says what is shown."""

    decodedShown = Signal()

    def __init__(self, session: ExplorerSession) -> None:
        super().__init__()
        self.session = session
        self.setProperty("role", "card")
        self.viewer, self.second = LiveViewer(), LiveViewer()
        self.viewer.full.view = self  # its controls lie here
        self.latency: list[float] = []
        self._background = Background(self)
        self._asked = 0.0
        self._meaning = ""  # what the colours of the difference mean, while it is shown
        self._difference_waits = False  # for the one that is being worked out
        self._finer = -1  # the request of a finer picture of what is shown
        self._undrawn = False  # an answer has come whose picture is not on the screen yet
        self._kept: Decoded | None = None
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(REST_MILLISECONDS)
        self._rest.timeout.connect(self._refine)
        self.link = ChimeraXLink(session, lambda: self.viewer.contour())
        self.mean = SelectionMean(session)
        self.mean.set_on(bool(int(str(QSettings().value("explorer/follow", 1)))))
        self.mean.varied.connect(self._say_variation)
        self._variation = ""  # among the selected whose mean is shown
        self.second.hide_controls()
        self.views = QSplitter()
        self.views.addWidget(self.viewer)
        self.views.addWidget(self.second)
        self.second.hide()
        self.views.setMinimumHeight(LEAST_VIEW)
        layout = column(spacing=0, margins=(1, 1, 1, 1))
        for control in (self.viewer.bar, self.viewer.tools, self.viewer.note):  # above both views
            layout.addWidget(control)
        layout.addWidget(self.views, 1)
        layout.addWidget(self.viewer.colour_bar)
        layout.addWidget(line())
        layout.addLayout(self._foot())
        self.setLayout(layout)
        self.viewer.drawn.connect(self._picture_drawn)
        self.viewer.drawn.connect(self._colour_second)
        session.modelReady.connect(self._model_ready)
        session.opened.connect(self._opened)
        session.closed.connect(self._forget)
        session.pictureWanted.connect(self._ask_picture)
        session.decoded.connect(self._take_decoded)
        session.latentChanged.connect(self._frame_shown)
        session.said.connect(self.status.setText)

    def event(self, event: QEvent) -> bool:
        """Bars that wrap take more room than a splitter knows of: what they need at this width is asked of it."""
        done = super().event(event)
        layout = self.layout()
        if layout is not None and event.type() in (QEvent.Type.Resize, QEvent.Type.LayoutRequest):
            least = layout.totalMinimumHeightForWidth(self.width())
            if least != self.minimumHeight():
                self.setMinimumHeight(least)
        return done

    def _foot(self) -> QHBoxLayout:
        self.status = Elided("", "hint")
        self.status.setObjectName("decodeStatus")
        self.trust = Elided("", "hint")
        self.trust.setObjectName("populationStatus")
        tip = "Keep this state in a second view with the same camera"
        self.keep_button = icon_button("pin", tip, self.keep_state, name="keepState")
        self.difference = tool_button("compare", "", "Difference to the kept state (or to the consensus)")
        self.difference.setObjectName("showDifference")
        self.difference.toggled.connect(lambda _on: self._draw_difference())
        tip = "Lay a map (.mrc) or atomic model (.cif, .pdb) over it; again takes it away"
        self.reference = icon_button("folder", tip, self.ask_reference, checkable=True, name="referenceMap")
        self.view_save = icon_button("download", "Save the 3D view as PNG, SVG or PDF", self.save_view, name="saveView")
        tip = "Show each clicked point in a running ChimeraX too"
        self.chimerax = icon_button("cube", tip, checkable=True, name="chimeraxFollow")
        self.chimerax.toggled.connect(self.link.set_on)
        self.link.turnedOff.connect(lambda: self.chimerax.setChecked(False))
        under = row(spacing=4, margins=(12, 4, 8, 4))
        self.follow = icon_button("set-new", "Show the mean of what is selected at once", checkable=True)
        self.follow.setObjectName("followSelection")
        self.follow.setChecked(self.mean.on)
        self.follow.toggled.connect(self._follow)
        under.addLayout(column(self.status, self.trust, spacing=1), 1)
        under.addWidget(self.keep_button)
        for part in (self.follow, self.difference):
            under.addWidget(part)
        for part in (self.reference, self.chimerax, self.view_save):  # below them the words have the room
            self.viewer.buttons.layout().addWidget(part)
        return under

    def _opened(self) -> None:
        sources = self.session.sources
        if sources is not None and sources.weights is None:
            self.viewer.empty.set_text("No network here", NO_NETWORK[0].upper() + NO_NETWORK[1:])
        else:
            self.viewer.empty.set_text(*CLICK)

    def _forget(self) -> None:
        self._rest.stop()
        self._background.cancel_all()
        self._kept, self._meaning, self._undrawn, self._difference_waits = None, "", False, False
        self._fold_second()
        self._show_kept(False)
        self.difference.setChecked(False)
        self.hide_reference()
        self.status.setText("")
        self._tell_population()
        for viewer in (self.viewer, self.second):
            viewer.forget()

    def shut_down(self) -> None:
        """Let go of the canvases; call before the window goes."""
        self.link.shut_down()
        self.viewer.shut_down()
        self.second.shut_down()

    # --- decoding --------------------------------------------------------------------------------------------------

    def _model_ready(self) -> None:
        model = self.session.consensus
        assert model is not None
        self.viewer.set_model(model)
        self.second.model = model
        self.status.setText(f"{len(model.positions):,} Gaussians ({model.device}). Click in a plot.")

    def longest(self) -> int:
        """Voxels a side of pictures decoded live."""
        model = self.session.consensus
        device = model.device if model is not None else "cpu"
        return min(self.viewer.longest(), LARGEST_LIVE["cuda" if device.startswith("cuda") else "cpu"])

    def _say_variation(self, angstrom: float) -> None:
        self._variation = f"varies by {angstrom:.1f} Å"
        if not self._undrawn and self.session.picture is not None and self.latency:
            self._tell(self.session.picture)

    def _follow(self, on: bool) -> None:
        QSettings().setValue("explorer/follow", int(on))
        self.mean.set_on(on)

    def _ask_picture(self) -> None:
        self._variation = ""
        if self.session.latent is not None:
            self._asked = time.perf_counter()
            self._finer = -1
            self._rest.stop()
            self.session.request(self.session.latent, channel="live", longest=min(QUICK_LIVE, self.longest()))

    def _refine(self) -> None:
        """The picture at rest, as fine as it can be shown."""
        if self.session.decoder is not None and self.session.latent is not None:
            self._finer = self.session.request(self.session.latent, channel="live", longest=self.longest())

    def _take_decoded(self, answer: Decoded) -> None:
        if answer.channel != "live" or self.viewer.model is None:  # the job was left while this was on its way
            return
        self.session.picture = answer
        self._undrawn = True
        particle = self.session.particle
        name = f"particle {particle + 1:,}" if particle >= 0 else "latent"
        self.viewer.show_decoded(answer.volume, answer.positions, answer.densities, name)
        self._draw_difference()
        self.link.send()

    def _picture_drawn(self) -> None:
        """The canvas has the picture: only now a click is answered."""
        answer, model = self.session.picture, self.session.consensus
        if not self._undrawn or answer is None:
            return
        self._undrawn = False
        if answer.id == self._finer:
            return
        if model is not None and min(self.longest(), model.box) > QUICK_LIVE:
            self._rest.start()
        self.latency.append(time.perf_counter() - self._asked)
        del self.latency[:-1000]
        self._tell(answer)
        self.decodedShown.emit()

    # --- in words --------------------------------------------------------------------------------------------------

    def _tell(self, answer: Decoded) -> None:
        table, model, particle = self.session.table, self.session.consensus, self.session.particle
        assert table is not None
        words = [f"Particle {particle + 1:,}" if particle >= 0 else "A place in latent space"]
        if self.session.mean_of:
            words = [f"Mean of {self.session.mean_of:,} selected", *([self._variation] if self._variation else [])]
        if particle >= 0 and table.labels is not None:
            words.append(f"class {table.labels[particle] + 1}")
        if model is not None and answer.positions is not None and table.varies:
            moved = np.linalg.norm(answer.positions - model.positions, axis=1)
            words.append(f"moves up to {np.percentile(moved, 99) * model.half_angstrom:.1f} Å")
        self.status.setText(self._meaning or " · ".join(words))
        self._tell_population()

    def _frame_shown(self) -> None:
        if self.session.frame >= 0:
            self.status.setText(f"Frame {self.session.frame + 1} of {len(self.session.path)}")
            self._tell_population()

    def _tell_population(self) -> None:
        """How populated the place is, in words; a warning where the network had nothing to learn from."""
        density, z = self.session.density, self.session.latent
        if density is None or z is None:
            self.trust.setText("")
            return
        sparse = float(density.sparsity(z)[0]) > 1.0
        if not sparse:
            text = f"Denser than around {100 * float(density.rank(z)[0]):.0f} % of the particles"
        elif self.session.particle >= 0:
            text = "⚠ An outlier: hardly any other particle is like it"
        else:
            text = "⚠ Hardly any particle is here: the network's guess"
        self.trust.setText(text)
        restyle(self.trust, role="warning" if sparse else "hint")

    # --- a second state --------------------------------------------------------------------------------------------

    def keep_state(self) -> None:
        """Keep what is shown in a second view with linked cameras; called again, let go of it."""
        session = self.session
        if session.kept is not None:
            self._fold_second()
            self._kept = None
            self._show_kept(False)
            session.keep_latent(False)
        elif session.picture is not None and session.latent is not None:
            self._kept = picture = session.picture
            self.second.setMaximumWidth(MOST_WIDTH)
            self.second.show()
            self.views.setSizes([500, 500])
            self.second.set_contour(self.viewer.contour())
            self.second.show_decoded(picture.volume, picture.positions, picture.densities, "kept")
            self.second.colour_like(self.viewer)
            self.second.drawn.connect(self._link_cameras, Qt.ConnectionType.SingleShotConnection)
            self._show_kept(True)
            session.keep_latent()
        self._draw_difference()

    def _colour_second(self) -> None:
        if self._kept is not None:
            self.second.colour_like(self.viewer)

    def _show_kept(self, kept: bool) -> None:
        """What the button does now."""
        tip = "Let go of the state kept beside" if kept else "Keep this state in a second view with the same camera"
        self.keep_button.setToolTip(tip)
        self.keep_button.setAccessibleName(tip)
        keep_icon(self.keep_button, "x" if kept else "pin", "accent" if kept else "muted")

    def _fold_second(self) -> None:
        """No room for the second view; its canvas stays as it is."""
        self.second.setMaximumWidth(0)
        self.views.setSizes([1000, 0])

    def _link_cameras(self) -> None:
        mine, first = self.second.camera(), self.viewer.camera()
        if mine is not None and first is not None and not self.second.property("linked"):
            self.second.setProperty("linked", True)
            link_cameras(mine, first)
            self.viewer.level.levelChanged.connect(self.second.set_contour)

    def _draw_difference(self) -> None:
        """Surfaces of what is more and what is less than in the kept state, or the consensus; made in a worker."""
        model, kept, shown = self.session.consensus, self._kept, self.session.picture
        if model is None or shown is None or shown.volume is None or not self.difference.isChecked():
            self._meaning = ""
            self.viewer.show_surface("gain", None)
            self.viewer.show_surface("loss", None)
            return
        if self._background.busy("difference"):
            self._difference_waits = True
            return
        now = shown.volume
        before = kept.volume if kept is not None else model.volume
        than = "the kept state" if kept is not None else "the consensus"
        assert before is not None

        def work() -> tuple[list[Mesh], str]:
            meshes, level = difference_surfaces(before, now, model)
            return meshes, f"Blue: more density than in {than}; red: less (from {level:.1f} σ)" if meshes else ""

        self._background.run("difference", work, self._take_difference, self.session.say_error)

    def _take_difference(self, found: tuple[list[Mesh], str]) -> None:
        meshes, text = found
        if self.difference.isChecked() and self.session.picture is not None:
            for key, colour, mesh in zip(("gain", "loss"), ("info", "danger"), meshes):
                self.viewer.show_surface(key, mesh, theme.colour(colour), 0.75)
            if text:
                self._meaning = text
                self.status.setText(text)
        if self._difference_waits:
            self._difference_waits = False
            self._draw_difference()

    # --- a map or model laid over ----------------------------------------------------------------------------------

    def ask_reference(self) -> None:
        """Ask for a map or atomic model and lay it over the picture; called again, take it away."""
        if self.viewer.segments is not None or self.viewer.has_surface("reference"):
            self.hide_reference()
            return
        start = str(self.session.root)
        chosen, _ = QFileDialog.getOpenFileName(self, "A map or model to lay over", start, MODEL_FILES)
        if chosen:
            self.show_reference(Path(chosen))
        else:
            self.reference.setChecked(False)

    def hide_reference(self) -> None:
        """Take the map or model away again."""
        self.reference.setChecked(False)
        self.viewer.show_surface("reference", None)
        self.viewer.show_model(None)

    def show_reference(self, path: Path) -> None:
        """Lay the surface of a map, at the sigma in use, or the trace of an atomic model over the picture."""
        model, longest, sigmas = self.session.consensus, self.viewer.longest(), self.viewer.sigmas()
        if model is None:
            return
        self.reference.setChecked(True)

        def failed(error: Exception) -> None:
            self.reference.setChecked(False)
            self.session.say_error(error)

        if path.suffix.lower() in (".mrc", ".map"):
            self._background.run(
                "reference",
                lambda: surface(found := load_volume(path, longest), found.level(sigmas)),
                lambda mesh: self.viewer.show_surface("reference", mesh, theme.colour("muted"), 0.35),
                failed,
            )
        else:
            self._background.run(
                "reference",
                lambda: place_in_box(read_backbone(path), model.box, model.pixel_size_angstrom, model.origin_angstrom),
                self.viewer.show_model,
                failed,
            )

    # --- figures ---------------------------------------------------------------------------------------------------

    def save_view(self) -> None:
        """Ask for a file and write the 3D view on white with a scale bar, or the slices where they are shown."""
        path = ask_figure(self, "view.png")
        if path is not None:
            self.write_view(path)

    def write_view(self, path: Path) -> None:
        """Write the 3D view (both views, if a state is kept beside) or the slices as PNG, SVG or PDF."""
        shown = self.viewer.picture
        if not self.viewer.is_3d() and shown is not None:
            planes = [self.viewer.slices.shown(i) for i in range(len(PLANES))]
            drawn = [(name, plane) for (name, _), plane in zip(PLANES, planes) if plane is not None]
            voxel = shown.voxel_angstrom
            self.session.write_figure(lambda: figures.planes(path, drawn, voxel))
            return
        pixels, scale = self.viewer.pixels_on_white(FIGURE_SCALE)
        if self.session.kept is not None and self.second.is_3d():
            other = self.second.pixels_on_white(FIGURE_SCALE)[0]
            high = max(len(pixels), len(other))
            both = [np.pad(p, ((0, high - len(p)), (0, 0), (0, 0)), constant_values=255) for p in (pixels, other)]
            pixels = np.concatenate(both, axis=1)
        self.session.write_figure(lambda: figures.picture(path, pixels, scale))
