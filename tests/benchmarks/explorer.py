"""Benchmark of the latent explorer: one million points, decode latency, play rate, memory. Prints a table.

    xvfb-run -a -s "-screen 0 1400x900x24 +extension GLX" python tests/benchmarks/explorer.py [--points N]

The model of the decode and play figures has 10,000 Gaussians in a box of 128 and the default network.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

LINES: list[tuple[str, float, str, str]] = []


def timed(function: Callable[[], object], repeats: int = 7) -> float:
    """Median milliseconds."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        taken.append(1000 * (time.perf_counter() - began))
    return float(np.median(taken))


def report(what: str, value: float, unit: str, limit: str = "") -> None:
    """One line of the table, printed at once."""
    LINES.append((what, value, unit, limit))
    print(f"{what:<58}{value:>10.1f} {unit:<9}{limit}", flush=True)


def memory() -> float:
    """MiB of this process."""
    return psutil.Process().memory_info().rss / 2**20


def plot_figures(application, count: int) -> None:
    """Redraw, pick and lasso."""
    from gaussianem_gui.explorer.particle_columns import Column
    from gaussianem_gui.views.explorer.colours import Colouring
    from gaussianem_gui.views.explorer.plot import ExplorerPlot

    generator = np.random.default_rng(0)
    points = generator.normal(size=(count, 2)).astype(np.float32)
    points[: count // 3, 0] += 3
    before = memory()
    plot = ExplorerPlot()
    plot.resize(700, 600)
    plot.show()
    application.processEvents()
    began = time.perf_counter()
    plot.set_points(points, "PC 1", "PC 2")
    application.processEvents()
    report(f"show {count:,} points", 1000 * (time.perf_counter() - began), "ms")

    def redraw() -> None:
        plot.redraw_image()
        plot.canvas.viewport().repaint()

    report("redraw: bin and paint", timed(redraw), "ms", "< 30 ms")
    plot.set_colouring(Colouring.of(Column("value", "", generator.normal(size=count).astype(np.float32))))
    report("redraw, coloured by a value", timed(redraw), "ms")
    classes = Column("Class", "", generator.integers(0, 10, count), tuple("abcdefghij"))
    plot.set_colouring(Colouring.of(classes))
    report("redraw, coloured by ten classes", timed(redraw), "ms")
    plot.set_colouring(Colouring())
    angle = np.linspace(0, 2 * np.pi, 400)
    radius = 1.3 + 0.2 * np.sin(9 * angle)
    outline = np.stack([3 + radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    report("lasso with 400 corners: choose", timed(lambda: plot.inside("lasso", outline)), "ms", "< 1 s")
    mask = plot.inside("lasso", outline)

    def select() -> None:
        plot.set_mask(mask)
        plot.canvas.viewport().repaint()

    report("lasso: draw the selection and its histograms", timed(select), "ms")
    plot.set_mask(None)
    while plot._background.busy("tree"):
        application.processEvents()
        time.sleep(0.01)
    places = generator.normal(size=(200, 2))
    began = time.perf_counter()
    for x, y in places:
        plot.nearest(float(x), float(y))
    report("pick the nearest particle", 1000 * (time.perf_counter() - began) / len(places), "ms", "< 5 ms")
    plot.canvas.setRange(xRange=(0, 0.2), yRange=(0, 0.2), padding=0)
    report("redraw, zoomed in to single points", timed(redraw), "ms", "< 30 ms")
    report("memory of the plot and its points", memory() - before, "MiB")
    plot.close()


def write_large_model(folder: Path) -> None:
    """A model of the default size with random weights."""
    from gaussianem_core.io.checkpoint import save_checkpoint
    from gaussianem_core.io.latents import save_latents
    from gaussianem_core.model.configuration import Configuration, write_configuration
    from gaussianem_core.model.gaussians import Gaussians, write_gaussians
    from gaussianem_core.model.network import build_network
    from gaussianem_core.options import PreprocessOptions

    fields = PreprocessOptions.model_fields
    network = {
        name: fields[name].default
        for name in (
            "gaussian_embedding_dim",
            "qlayers",
            "qdim",
            "zdim",
            "gaussian_kdim",
            "gaussian_klayers",
            "feature_dim",
            "feature_kdim",
            "feature_klayers",
        )
    }
    configuration = Configuration(128, 2.0, 1.0 / 128, 2.0 / 128, 1.0, True, True, network, {})
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(10_000, 3, generator=generator)
    positions = (
        0.55 * direction / direction.norm(dim=1, keepdim=True) * torch.rand(10_000, 1, generator=generator) ** (1 / 3)
    )
    gaussians = Gaussians(positions, torch.ones(10_000), torch.full((10_000,), 3.0), 1.0 / 128, 2.0 / 128)
    torch.manual_seed(0)
    model = build_network(configuration)
    z = np.random.default_rng(0).normal(size=(500, network["zdim"])).astype(np.float32)
    write_configuration(configuration, folder / "cfg.json")
    write_gaussians(gaussians, folder / "point_cloud.ply")
    save_checkpoint({"epoch": 0, "model_state_dict": model.state_dict()}, folder / "weights.0.pkl")
    save_latents(folder / "weights.0.output.pkl", z, np.full_like(z, -3.0))


def decode_figures(application, folder: Path, small: Path) -> None:
    """From request to answer, and to the painted picture; play rate."""
    from gaussianem_gui.execution.history import Watcher
    from gaussianem_gui.project.project import Project
    from gaussianem_gui.project.settings import Settings
    from gaussianem_gui.views.explorer.page import Explorer
    from gaussianem_gui.views.explorer.trajectory_panel import TrajectoryPanel
    from gaussianem_gui.views.project_model import ProjectModel

    def wait(test: Callable[[], bool], seconds: float = 180) -> None:
        end = time.time() + seconds
        while not test():
            if time.time() > end:
                raise SystemExit("no answer")
            application.processEvents()
            time.sleep(0.002)

    for name, root in (("small (60 Gaussians, box 24)", small), ("default (10,000 Gaussians, box 128)", folder)):
        project = Project.open(root)
        watcher = Watcher(1.0)
        model = ProjectModel(project, watcher, Settings(project.root))
        explorer = Explorer()
        for _ in explorer.parts():
            pass
        explorer.resize(1300, 800)
        explorer.show()
        began = time.perf_counter()
        explorer.open(model, "Train/job002/")
        wait(lambda e=explorer: e.session.consensus is not None and e.session.density is not None)
        report(f"{name}: open to ready", time.perf_counter() - began, "s")
        wait(lambda e=explorer: e.scene.viewer.picture is not None)
        for _ in range(100):
            application.processEvents()
            time.sleep(0.005)
        plot = explorer.grid.plots[0]
        worked, shown = [], []
        for i in range(12):
            had = len(explorer.scene.latency)
            x, y = plot.points[17 * i % len(plot.points)]
            explorer.grid.click(plot, float(x), float(y))
            wait(lambda e=explorer, n=had: len(e.scene.latency) > n)
            worked.append(explorer.session.picture.seconds)
            shown.append(explorer.scene.latency[-1])
        report(f"{name}: decode in the engine", 1000 * float(np.median(worked)), "ms")
        report(f"{name}: click to the answer shown", 1000 * float(np.median(shown)), "ms", "< 500 ms CPU")
        if explorer.scene.viewer.is_3d():
            panel = explorer.panels["Trajectory"]
            assert isinstance(panel, TrajectoryPanel)
            explorer.show_panel(panel)
            panel.kind.setCurrentIndex(panel.kind.findData("component"))
            panel.count.setValue(50)
            began = time.perf_counter()
            panel.start()
            wait(lambda p=panel: len(p.player.frames) == 50 and bool(p.player.meshes))
            report(f"{name}: decode 50 frames, with surfaces", time.perf_counter() - began, "s")
            panel.player.speed.setCurrentIndex(3)
            panel.player.toggle()
            wait(lambda p=panel: len(p.player.shown_at) > 60)
            panel.player.stop()
            gaps = np.diff(panel.player.shown_at[10:])
            report(f"{name}: play rate", 1 / float(np.mean(gaps)), "frames/s", ">= 20")
        report(
            f"{name}: memory of window and worker",
            memory() + psutil.Process(explorer.session.decoder.pid).memory_info().rss / 2**20,
            "MiB",
        )
        explorer.shut_down()
        explorer.close()
        model.close()
        watcher.stop()


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--skip_plots", action="store_true", help="decoding and playing alone")
    parser.add_argument("--skip_decode", action="store_true", help="plots alone; needs no OpenGL")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            os.environ[variable] = f"{name}/{variable}"
        from PySide6.QtCore import QSettings
        from PySide6.QtWidgets import QApplication

        QSettings.setDefaultFormat(QSettings.Format.IniFormat)
        QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, f"{name}/qt")
        application = QApplication([])
        from gaussianem_gui.views.toolkit.theme import theme

        theme.apply("dark")
        if not options.skip_plots:
            plot_figures(application, options.points)
        if not options.skip_decode:
            sys.path.insert(0, str(Path(__file__).parents[1] / "gui" / "views"))
            import exploring

            for root in ("small", "large"):
                exploring.make(Path(name) / root, 500)
            large = Path(name) / "large"
            write_large_model(large / "Train/job002")
            for file in ("cfg.json", "point_cloud.ply"):
                (large / "Preprocess/job001" / file).write_bytes((large / "Train/job002" / file).read_bytes())
            decode_figures(application, large, Path(name) / "small")


if __name__ == "__main__":
    main()
