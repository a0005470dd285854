"""What is shown without a project (open, create, demo, recent ones) and without a job (what to do next)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QPixmap
from PySide6.QtWidgets import QFrame, QGridLayout, QLabel, QPushButton, QSizePolicy, QWidget

from gaussianem_core.options import JOB_OPTIONS
from gaussianem_gui.forms.next_steps import ORDER, STEPS, picture, purpose
from gaussianem_gui.units import count_text
from gaussianem_gui.views.project_model import ProjectModel
from gaussianem_gui.views.toolkit.theme import logo, theme
from gaussianem_gui.views.toolkit.widgets import Elided, button, clear, column, frame, keep_icon, label, row, scrolled

PICTURE_HEIGHT = 170  # pixels


class Tile(QPushButton):
    """A large button: icon, title, a sentence."""

    def __init__(self, icon: str, title: str, text: str, name: str = "", *, accent: bool = False) -> None:
        super().__init__()
        self.setProperty("kind", "tile")
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setAccessibleName(title)
        self.setAccessibleDescription(text)
        self.setObjectName(name)
        self._icon, self._tint = icon, "accent" if accent else "muted"
        self.picture = QLabel()
        self.words = label(text, "hint", wrap=True)
        layout = column(self.picture, 2, label(title, "heading"), self.words, None, spacing=6, margins=(18, 18, 18, 16))
        self.setLayout(layout)
        for child in self.findChildren(QLabel):
            child.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumSize(200, 150)
        self._restyle()
        theme.changed.connect(self._restyle)

    def sizeHint(self) -> QSize:
        return QSize(240, 150)

    def _restyle(self) -> None:
        self.picture.setPixmap(theme.pixmap(self._icon, self._tint, 28))


class Way(QWidget):
    """What leads from particles to motion, in four steps, for somebody who sees the program for the first time."""

    STEPS = (
        (
            "preprocess",
            "Preprocess",
            "Refined particles and their map: the images are cropped, the molecule becomes soft spheres.",
        ),
        ("train", "Train", "A network learns how the spheres move in every single particle."),
        ("analyze", "Analyze", "Classes, components, and volumes along the motion."),
        ("explore", "Explore", "Click a particle and see its molecule; select, play, take particles back."),
    )

    def __init__(self) -> None:
        super().__init__()
        steps = row(spacing=16)
        self._pictures: dict[str, QLabel] = {}
        for number, (job_type, title, text) in enumerate(self.STEPS, 1):
            self._pictures[job_type] = QLabel()
            head = row(self._pictures[job_type], label(f"{number}  {title}", "label"), None, spacing=8)
            step = column(spacing=4)
            step.addLayout(head)
            step.addWidget(label(text, "hint", wrap=True))
            step.addStretch(1)
            steps.addLayout(step, 1)
        layout = column(label("From particles to motion", "section"), spacing=10)
        layout.addLayout(steps)
        self.setLayout(layout)
        self._restyle()
        theme.changed.connect(self._restyle)

    def _restyle(self) -> None:
        for job_type, label_ in self._pictures.items():
            name = "explore" if job_type == "explore" else picture(job_type)
            label_.setPixmap(theme.pixmap(name, "accent", 20))


def molecule_picture() -> QLabel:
    """The demo's molecule: the spliceosome with its head and arm in colours of their own."""
    file = resources.files("gaussianem_resources") / "demo" / "spliceosome.png"
    pixmap = QPixmap()
    pixmap.loadFromData(file.read_bytes())
    shown = QLabel()
    shown.setObjectName("moleculePicture")
    shown.setAccessibleName("The spliceosome (PDB 5NRL), which the demo shows in motion")
    shown.setToolTip("The spliceosome (PDB 5NRL): the demo's molecule. Its head (green) and arm (orange) move.")
    shown.setPixmap(pixmap.scaledToHeight(PICTURE_HEIGHT, Qt.TransformationMode.SmoothTransformation))
    return shown


class Welcome(QWidget):
    """The first window: demo, open, new, and recent projects, or how the work goes where there are none."""

    demoRequested = Signal()
    openRequested = Signal()
    newRequested = Signal()
    recentChosen = Signal(str)
    guideRequested = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("welcome")
        mark = QLabel()
        mark.setPixmap(logo(52))
        head = row(mark, spacing=16)
        words = column(
            label("GaussianEM", "hero"),
            label("See how your molecule moves, from the particles you already have.", "muted"),
            spacing=2,
        )
        words.insertStretch(0, 1)
        words.addStretch(1)
        head.addLayout(words)
        head.addStretch(1)
        head.addWidget(molecule_picture())
        self.demo = Tile(
            "flask",
            "Try the demo",
            "The spliceosome with known motion. From here to a volume in 3D in a few minutes.",
            "tileDemo",
            accent=True,
        )
        self.open = Tile(
            "folder",
            "Open a project",
            "A RELION project, or one of GaussianEM. Nothing in it is changed by opening it.",
            "tileOpen",
        )
        self.new = Tile(
            "folder-plus",
            "New project",
            "An empty directory for new jobs; particles come from RELION or cryoSPARC.",
            "tileNew",
        )
        self.demo.clicked.connect(lambda: self.demoRequested.emit())
        self.open.clicked.connect(lambda: self.openRequested.emit())
        self.new.clicked.connect(lambda: self.newRequested.emit())
        tiles = row(self.demo, self.open, self.new, spacing=16)
        self._recent = column(spacing=2)
        self._recent_box = frame("card")
        inside = column(label("Recent projects", "heading"), spacing=8, margins=(20, 16, 20, 14))
        inside.addLayout(self._recent)
        self._recent_box.setLayout(inside)
        self._way = Way()
        guide = button("Read the short guide", "link", "", self.guideRequested.emit)
        keys = label("Ctrl+K finds every job, view and action", "faint")
        body = column(spacing=26, margins=(48, 48, 48, 32))
        body.addLayout(head)
        body.addLayout(tiles)
        body.addWidget(self._recent_box)
        body.addWidget(self._way)
        body.addLayout(row(guide, None, keys))
        body.addStretch(1)
        inner = QWidget()
        inner.setMaximumWidth(940)
        inner.setLayout(body)
        holder = QWidget()
        holder.setObjectName("page")
        holder.setLayout(row(inner))
        layout = column(spacing=0)
        layout.addWidget(scrolled(holder))
        self.setLayout(layout)

    def set_recent(self, projects: list[Path]) -> None:
        """List projects opened before, the first six."""
        clear(self._recent)
        self._recent_box.setVisible(bool(projects))
        self._way.setVisible(not projects)
        for path in projects[:6]:
            item = QPushButton()
            item.setProperty("kind", "ghost")
            item.setCursor(Qt.CursorShape.PointingHandCursor)
            item.setAccessibleName(f"Open {path}")
            item.setMinimumHeight(34)
            picture_label = QLabel()
            picture_label.setPixmap(theme.pixmap("folder", "muted", 18))
            where = Elided(str(path.parent), "muted", Qt.TextElideMode.ElideMiddle)
            inside = row(picture_label, label(path.name, "label"), where, spacing=10, margins=(8, 2, 8, 2))
            inside.setStretch(2, 1)
            item.setLayout(inside)
            for child in item.findChildren(QLabel):
                child.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
            item.clicked.connect(lambda _c=False, p=path: self.recentChosen.emit(str(p)))
            self._recent.addWidget(item)


EXPLORE = "explore"  # the next step that is no job


class Home(QWidget):
    """An open project with no job chosen: what there is, and every kind of job to start."""

    newJobRequested = Signal(str)
    workflowRequested = Signal()
    exploreRequested = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("home")
        self.heading = label("", "title")
        self.sub = label("", "muted", wrap=True)
        self._next = QFrame()
        self._next.setProperty("role", "banner-info")
        self._next_text = label("", "", wrap=True)
        self.next_button = button("", "primary", "", self._go, name="homeNext")
        strip = row(self._next_text, self.next_button, spacing=14, margins=(18, 14, 18, 14))
        strip.setStretch(0, 1)
        self._next.setLayout(strip)
        self._next_type = ""
        grid = QGridLayout()
        grid.setSpacing(14)
        order = ["import", *ORDER, *(t for t in JOB_OPTIONS if t not in (*ORDER, "import"))]
        for place, job_type in enumerate(t for t in order if t in JOB_OPTIONS):
            _, why = STEPS.get(job_type, (JOB_OPTIONS[job_type].title, purpose(job_type)))
            if job_type == "import":
                why = "Bring particles, maps, masks or models into the project."
            tile = Tile(picture(job_type), JOB_OPTIONS[job_type].title, why, f"new-{job_type}")
            tile.setMinimumHeight(138)
            tile.clicked.connect(lambda _c=False, t=job_type: self.newJobRequested.emit(t))
            grid.addWidget(tile, place // 3, place % 3)
        flow = button("Start a whole workflow …", "", "graph", self.workflowRequested.emit)
        body = column(self.heading, self.sub, self._next, spacing=12, margins=(36, 30, 36, 30))
        body.addSpacing(8)
        body.addLayout(row(label("Start a job", "heading"), None, flow))
        body.addLayout(grid)
        body.addStretch(1)
        inner = QWidget()
        inner.setMaximumWidth(1040)
        inner.setLayout(body)
        holder = QWidget()
        holder.setObjectName("page")
        holder.setLayout(row(inner))
        layout = column(spacing=0)
        layout.addWidget(scrolled(holder))
        self.setLayout(layout)

    def refresh(self, model: ProjectModel) -> None:
        """Show what the project holds and what comes next."""
        self.heading.setText(model.root.name)
        count = len(model.jobs)
        running = sum(1 for info in model.jobs if info.status.state.value == "Running")
        known = count_text(count, "job") if count else "no jobs yet"
        words = known if model.loaded else "reading …"
        self.sub.setText(f"{model.root} · {words}" + (f" · {running} running" if running else ""))
        done = {info.job_type for info in model.jobs if info.status.state.value == "Succeeded"}
        foreign = any(not info.ours for info in model.jobs)
        sentence, button_text, job_type = next_for(done, foreign)
        self._next_text.setText(sentence)
        self.next_button.setText(button_text)
        self.next_button.setAccessibleName(button_text)
        self._next_type = job_type
        keep_icon(self.next_button, "explore" if job_type == EXPLORE else picture(job_type), "on_accent")

    def _go(self) -> None:
        if self._next_type == EXPLORE:
            self.exploreRequested.emit()
        else:
            self.newJobRequested.emit(self._next_type)


def next_for(done: set[str], foreign: bool) -> tuple[str, str, str]:
    """Sentence, button and job type (or EXPLORE) that a project with these finished job types needs next."""
    if "analyze" in done:
        return (
            "The latents are analyzed. Explore them: click a particle and see the molecule there, select particles and "
            "take them back.",
            "Explore",
            EXPLORE,
        )
    if "train" in done:
        return (
            "The network is trained. Analyze turns its latents into classes, components and volumes.",
            "Analyze",
            "analyze",
        )
    if "preprocess" in done:
        return "The particles are prepared. Train learns how the molecule moves.", "Train", "train"
    if foreign:
        return (
            "This is a RELION project. Start with Preprocess: it takes the particles and the map of a refinement.",
            "Preprocess",
            "preprocess",
        )
    return (
        "Start with Preprocess: it takes refined particles (.star or .cs) and the consensus map of that refinement.",
        "Preprocess",
        "preprocess",
    )
