"""Checks of the latent space: half sets, dependence on pose and defocus, images that fit badly, uncertainty."""

from __future__ import annotations

import numpy as np
from PySide6.QtWidgets import QWidget

from gaussianem_core.errors import InputError
from gaussianem_gui.explorer.particle_columns import ParticleColumns
from gaussianem_gui.explorer.sources import Sources
from gaussianem_gui.explorer.trust_figures import TrustFigures, read_trust
from gaussianem_gui.views.explorer.panel import Panel
from gaussianem_gui.views.explorer.session import ExplorerSession
from gaussianem_gui.views.toolkit.notices import Banner
from gaussianem_gui.views.toolkit.widgets import clear, column, label, scrolled

GROUPS = (("Pose", "the pose"), ("CTF", "the defocus"))
STRONG, WEAK = 0.2, 0.05
LEVELS = {"fine": "success", "look": "info", "warning": "warning"}


class TrustPanel(Panel):
    """The checks of the latent space as banners, made in a worker when a job is opened."""

    def __init__(self, session: ExplorerSession) -> None:
        super().__init__(session)
        inside = QWidget()
        self.rows = column(spacing=6, margins=(2, 2, 8, 2))
        inside.setLayout(self.rows)
        layout = column(spacing=6, margins=(6, 8, 6, 4))
        layout.addWidget(scrolled(inside), 1)
        self.setLayout(layout)

    def closed(self) -> None:
        clear(self.rows)

    def opened(self) -> None:
        sources, table = self.session.sources, self.session.table
        assert sources is not None and table is not None

        def work() -> list[tuple[str, str]]:
            return judge(table, sources)

        self.background.run("trust", work, self._take, self.session.say_error)

    def _take(self, found: list[tuple[str, str]]) -> None:
        clear(self.rows)
        for level, text in found:
            self.rows.addWidget(Banner(level, text))
        text = (
            "Density along the path is shown below the time slider of Trajectory; a click where hardly any "
            "particle is brings a warning under the 3D view."
        )
        self.rows.addWidget(label(text, "hint", wrap=True))
        self.rows.addStretch(1)


def judge(table: ParticleColumns, sources: Sources) -> list[tuple[str, str]]:
    """(kind of banner: success, info or warning; sentence) for each check that can be made; for a worker."""
    found: list[tuple[str, str]] = []
    trust = TrustFigures()
    if sources.analysis is not None and (sources.analysis / "summary.json").is_file():
        try:
            trust = read_trust(sources.analysis / "summary.json")
        except InputError as error:  # the other checks can be made all the same
            found.append(("warning", str(error)))
    if trust.half_sets:
        good = sum(h.difference_correlation > 0.5 for h in trust.half_sets)
        found.append(
            (
                "success" if good == len(trust.half_sets) else "warning",
                f"Half sets: {good} of {len(trust.half_sets)} classes change the same way in two halves of the "
                "data that were trained independently.",
            )
        )
    for what, entry in trust.dependence.items():
        sentence = _dependence(f"the {what}", entry.explained, entry.chance, entry.level)
        found.append((LEVELS.get(entry.level, "info"), sentence))
    if trust.outliers and trust.outliers.flagged:
        share = f"{trust.outliers.flagged:,} images ({100 * trust.outliers.share:.1f} %)"
        found.append(
            (
                "info",
                f"{share} fit badly: colour by fit, look at them under Particles, and leave them out if they are junk.",
            )
        )
    if not any("follows" in text for _, text in found):
        for group, what in GROUPS:
            columns = [c for c in table.columns.values() if c.group == group]
            if columns:
                explained = max(_explained(table.z, c.values) for c in columns)
                level = "fine" if explained < WEAK else "look" if explained < STRONG else "warning"
                found.append((LEVELS[level], _dependence(what, explained, 0.0, level)))
    if not any("Half sets" in text for _, text in found):
        found.append(("info", "Half sets were not compared: train with half_sets to tell signal from noise."))
    if table.log_variance is not None:
        used = table.z.std(axis=0) > 0  # the others say nothing, and their width is the prior's
        noise, spread = float(np.exp(table.log_variance[:, used]).mean()), float(table.z[:, used].var(axis=0).mean())
        reliable = spread / max(spread + noise, 1e-12)
        kind = "success" if reliable > 0.7 else "warning" if reliable < 0.4 else "info"
        found.append((kind, f"Latents: {100 * reliable:.0f} % of their spread is more than their own uncertainty."))
    return found


def _dependence(what: str, explained: float, chance: float, level: str) -> str:
    meaning = {
        "fine": "no reason for concern.",
        "look": "a weak link; see whether the molecule itself differs.",
        "warning": "a strong link: the latents may describe it and not the molecule.",
    }.get(level, "too few particles to tell.")
    by_chance = f" (chance: {100 * chance:.1f} %)" if chance else ""
    return f"{100 * explained:.1f} % of the variation follows {what}{by_chance}: {meaning}"


def _explained(z: np.ndarray, values: np.ndarray) -> float:
    """Share of the latents' variance between ten groups of equal size in ``values``, beyond what chance gives."""
    good = np.isfinite(values)
    z, values = z[good], values[good]
    groups = np.array_split(np.argsort(values), 10)
    total = float(np.square(z - z.mean(axis=0)).sum())
    between = sum(len(g) * float(np.square(z[g].mean(axis=0) - z.mean(axis=0)).sum()) for g in groups if len(g))
    return max(0.0, between / max(total, 1e-12) - 9 / max(len(z), 10))
