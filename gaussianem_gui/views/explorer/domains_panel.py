"""Rigid domains of the Gaussians, shown in colour and saved as masks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PySide6.QtWidgets import QComboBox, QListWidget, QListWidgetItem

from gaussianem_core.analysis.rigid_domains import Domains, domain_mask, find_domains
from gaussianem_core.io.mrc import read_header, write_map
from gaussianem_gui.explorer.decoder_client import Decoded
from gaussianem_gui.project.job import Job
from gaussianem_gui.project.project import Project
from gaussianem_gui.views.explorer.live_viewer import LiveViewer
from gaussianem_gui.views.explorer.panel import Panel
from gaussianem_gui.views.explorer.session import ExplorerSession
from gaussianem_gui.views.plots.plot_style import dot
from gaussianem_gui.views.toolkit.controls import wrapping
from gaussianem_gui.views.toolkit.theme import theme
from gaussianem_gui.views.toolkit.widgets import Elided, button, column, label, row

PURPOSE = "Gaussians that move together over the dataset are grouped into rigid bodies."
CONFORMATIONS = 24
REACH_ANGSTROM, EDGE_ANGSTROM = 6.0, 8.0


class DomainsPanel(Panel):
    """Decodes conformations over all particles, the selection or the path, finds rigid domains, and saves them as
    masks."""

    def __init__(self, session: ExplorerSession, viewer: LiveViewer) -> None:
        super().__init__(session)
        self.viewer = viewer
        self.count = QComboBox()
        self.count.setAccessibleName("Number of domains")
        self.count.addItem("As many as are worth it", 0)
        for number in range(2, 9):
            self.count.addItem(f"{number} domains", number)
        self.over = QComboBox()
        self.over.setAccessibleName("Over which particles")
        self.over.addItem("Over all particles", "all")
        self.over.addItem("Over the selection", "selection")
        self.over.addItem("Along the path", "path")
        self.go = button("Find domains", "primary", "", self.start, name="domainsGo")
        self.list = QListWidget()
        self.list.setAccessibleName("Rigid domains")
        self.list.setMinimumHeight(44)
        self.text = label(PURPOSE, "hint", wrap=True)
        self.status = Elided("", "hint")
        tip = "An MRC mask (consensus grid) and a 0/1 file per Gaussian of each domain"
        self.save = button("Save as masks", "", "job-mask", self.save_job, tip, name="saveDomains")
        layout = column(spacing=6, margins=(6, 8, 6, 4))
        layout.addWidget(wrapping(self.count, self.over, self.go))
        layout.addWidget(self.list, 1)
        layout.addWidget(self.text)
        last = row(spacing=6)
        last.addWidget(self.status, 1)
        last.addWidget(self.save)
        layout.addLayout(last)
        self.setLayout(layout)
        self.found: Domains | None = None
        self._number = -1
        self._frames: dict[int, np.ndarray] = {}
        self.save.setEnabled(False)
        session.decoded.connect(self._take_decoded)
        session.unanswered.connect(self._unanswered)

    def closed(self) -> None:
        self.found, self._number, self._frames = None, -1, {}
        self.list.clear()
        self.text.setText(PURPOSE)
        self.status.setText("")
        self.viewer.show_domains(None)
        self.go.setEnabled(True)
        self.save.setEnabled(False)

    def start(self) -> None:
        """Decode the conformations in which domains are sought: the path's, or CONFORMATIONS spread over the
        particles."""
        session = self.session
        if session.table is None:
            return
        z = session.table.z
        kind = self.over.currentData()
        if kind == "path" and len(session.path):
            chosen = session.path
        else:
            mask = session.selections.mask if kind == "selection" and session.selections.selected else None
            chosen = spread(z if mask is None else z[mask], CONFORMATIONS)
        self._frames = {}
        self.go.setEnabled(False)
        self.status.setText("Decoding …")
        self._number = session.request(chosen, channel="motion", volumes=False)
        if self._number < 0:
            self._not_decoded()

    def _unanswered(self, number: int) -> None:
        if self._number >= 0 and number in (-1, self._number):
            self._number = -1
            self._not_decoded()

    def _not_decoded(self) -> None:
        self.go.setEnabled(True)
        self.status.setText("Not decoded")

    def _take_decoded(self, answer: Decoded) -> None:
        model = self.session.consensus
        if answer.channel != "motion" or answer.id != self._number or answer.positions is None or model is None:
            return
        self._frames[answer.index] = answer.positions
        self.status.setText(f"{len(self._frames)} of {answer.count} conformations")
        if len(self._frames) < answer.count:
            return
        self._number = -1
        count = int(self.count.currentData())
        frames = np.stack([self._frames[i] for i in sorted(self._frames)])
        self.status.setText("Finding domains …")
        self.background.run(
            "domains", lambda: find_domains(model.positions, frames, model.densities, count), self._take, self._failed
        )

    def _failed(self, error: Exception) -> None:
        self.go.setEnabled(True)
        self.status.setText("")
        self.session.say_error(error)

    def _take(self, found: Domains) -> None:
        self.found = found
        self.go.setEnabled(True)
        self.save.setEnabled(found.count > 1)
        model = self.session.consensus
        assert model is not None
        half = model.half_angstrom
        self.list.clear()
        for domain in range(found.count):
            own = found.labels == domain
            misfit = float(np.sqrt(np.square(found.misfit[own]).mean())) * half
            cosine = (np.trace(found.rotations[:, domain], axis1=1, axis2=2) - 1) / 2
            turn = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
            item = QListWidgetItem(
                dot(theme.series(domain)),
                f"Domain {domain + 1}   {100 * found.shares[domain]:.0f} % of the density, "
                f"turns up to {turn.max():.1f}°, {misfit:.1f} Å not rigid",
            )
            self.list.addItem(item)
        if found.count == 1:
            self.text.setText(
                "One rigid body describes the motion as well as several would: there are no separate "
                "domains, or the motion is a bend without hinges."
            )
        else:
            self.text.setText(
                f"{found.count} rigid bodies explain {100 * found.explained:.0f} % of the motion "
                "(the whole molecule's own turn and shift left out). The rest is bending, or density "
                "that comes and goes."
            )
        self.status.setText("")
        self.viewer.show_domains(found.labels)

    def save_job(self) -> None:
        """Write a Mask job with an MRC mask and a 0/1 array (N,) of its Gaussians for each domain; the grid is that of
        the consensus map, or the model's where that map is not there."""
        session, found = self.session, self.found
        model, sources = session.consensus, session.sources
        if found is None or session.model is None or model is None or sources is None:
            return
        consensus = str(sources.preprocess_options.get("consensus_map") or "")

        def work(project: Project) -> Job:
            box, pixel, origin = model.box, model.pixel_size_angstrom, model.origin_angstrom
            start = (0, 0, 0)
            path = project.root / consensus
            if consensus and path.is_file():  # on the grid of the refinement, for focused refinement
                header = read_header(path)
                box, origin, start = header.shape[0], header.origin_angstrom, header.start_voxels
                pixel = model.box * model.pixel_size_angstrom / box

            def write(directory: Path) -> list[tuple[str, str]]:
                voxels = box // 2 + model.positions * box / 2
                made = []
                for domain in range(found.count):
                    mask = domain_mask(
                        voxels,
                        found.labels,
                        domain,
                        box,
                        reach_voxels=REACH_ANGSTROM / pixel,
                        edge_voxels=EDGE_ANGSTROM / pixel,
                    )
                    write_map(directory / f"domain{domain + 1}_mask.mrc", mask, pixel, origin, start)
                    np.save(
                        directory / f"domain{domain + 1}_gaussians.npy",
                        (found.labels == domain).astype(np.uint8),
                        allow_pickle=False,
                    )
                    made.append((f"domain{domain + 1}_mask.mrc", "mask"))
                return made

            relative = os.path.relpath(sources.model()[0], project.root)
            inputs = [] if relative.startswith("..") else [relative]
            return project.record("Mask", write, inputs=inputs, note=f"{found.count} rigid domains of {sources.job}")

        session.model.do(
            "Save the domains",
            work,
            lambda job: session.noted.emit(
                "success", f"{job.name} written", f"{found.count} masks, and 0/1 files that Train takes as --mask."
            ),
        )


def spread(z: np.ndarray, count: int, seed: int = 0) -> np.ndarray:  # (N, zdim) -> (count, zdim)
    """At most ``count`` latents that cover the particles: centres of k-means clusters, those without a particle left
    out. Of more than 20,000 particles a random part is used."""
    from scipy.cluster.vq import kmeans2

    generator = np.random.default_rng(seed)
    part = z if len(z) <= 20_000 else z[generator.choice(len(z), 20_000, replace=False)]
    count = min(count, len(part))
    centres, member = kmeans2(part.astype(np.float64), count, minit="++", seed=generator)
    return centres[np.unique(member)]
