"""How the window holds up: time to the first window, longest stall while a job writes 1,000 events a second, redraws.

Run: ``python tests/benchmarks/gui_live.py [--seconds 20]`` (offscreen unless QT_QPA_PLATFORM says otherwise).
Prints a table. A stall is a gap between two ticks of a 5 ms timer on the window's thread; beside it stands the
processor time that this thread took in a gap, which tells its own work from a machine that is busy with other things.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import sys, time
from pathlib import Path
from gaussianem_core.job.events import JobLog
directory, seconds, rate = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
with JobLog(directory, ["gaussianem", "train"]) as log, open(directory / "run.out", "a", buffering=1) as out:
    begin, step = time.time(), 0
    while time.time() - begin < seconds:
        while step < (time.time() - begin) * rate:
            log.metric("train", step, step / 1000, loss=1 / (1 + step), image=0.9, kl=0.01, distance=1e-3,
                       direction=-1e-3, spacing=1e-4, lr=1e-4, images_per_second=5000.0)
            out.write(f"step {step} loss {1 / (1 + step):.6f}\\n")
            step += 1
        time.sleep(0.002)
    print(step)
"""
START = """
import sys, time
began = time.perf_counter()
sys.argv = ["gaussianem-gui"]
from PySide6.QtWidgets import QApplication
app = QApplication([])
from gaussianem_gui.views.toolkit.theme import theme
theme.apply("dark")
from gaussianem_gui.views.window.main_window import MainWindow
window = MainWindow(); window.show(); app.processEvents()
print(time.perf_counter() - began)
window.close()
"""


def environment(folder: Path) -> dict[str, str]:
    """Settings of its own, and the checkout on the path."""
    return {**os.environ, "XDG_CONFIG_HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "PYTHONPATH": str(ROOT)}


def first_window(folder: Path) -> tuple[float, float]:
    """Seconds from the start of the process to the first window, and its processor time; best of three."""
    times, work = [], []
    for _ in range(3):
        begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", START], check=True, capture_output=True, env=environment(folder))
        times.append(time.perf_counter() - begin)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        work.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times), min(work)


def live(folder: Path, seconds: float, rate: int) -> dict[str, float]:
    """Watch a job that writes ``rate`` events a second; stalls in milliseconds and the count of events."""
    import numpy as np
    from PySide6.QtCore import QElapsedTimer, QEventLoop, QTimer
    from PySide6.QtWidgets import QApplication

    from gaussianem_gui.app import spare_the_collector
    from gaussianem_gui.project.project import Project
    from gaussianem_gui.views.toolkit.theme import theme
    from gaussianem_gui.views.window.main_window import MainWindow

    app = QApplication.instance() or QApplication([])
    theme.apply("dark")
    project = Project.create(folder / "project")
    job = project.new_job("train", {})
    window = MainWindow()
    window.resize(1280, 800)
    window.show()
    window.open_project(project.root)
    loop = QEventLoop()
    QTimer.singleShot(1500, loop.quit)
    loop.exec()
    spare_the_collector()
    window.pages.open_job(job.name, "Progress")
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(job.directory), str(seconds), str(rate)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(folder),
    )
    gaps: list[float] = []
    clock = QElapsedTimer()
    clock.start()
    last = [clock.nsecsElapsed(), time.thread_time_ns()]
    busy: list[float] = []

    def tick() -> None:
        now = [clock.nsecsElapsed(), time.thread_time_ns()]
        gaps.append((now[0] - last[0]) / 1e6)
        busy.append((now[1] - last[1]) / 1e6)
        last[:] = now

    timer = QTimer()
    timer.timeout.connect(tick)
    timer.start(5)
    switch = QTimer()
    tabs = iter(["Log", "Progress", "Files", "Progress", "Results", "Progress"] * 100)
    switch.timeout.connect(lambda: window.pane.show_tab(next(tabs)))
    switch.start(3000)
    QTimer.singleShot(round(1000 * (seconds + 2)), loop.quit)
    loop.exec()
    for stopped in (timer, switch):
        stopped.stop()
    written = int(writer.communicate()[0])
    history = window.model.history(job.name)
    deadline = time.time() + 10
    while history.end is None and time.time() < deadline:
        QTimer.singleShot(200, loop.quit)
        loop.exec()
    seen = len(history.curve("train", "loss").value)
    window.close()
    app.processEvents()
    values = np.array(gaps)
    return {
        "events written": written,
        "events shown": seen,
        "longest stall (ms)": values.max(),
        "99.9th percentile (ms)": np.percentile(values, 99.9),
        "stalls over 50 ms": float((values > 50).sum()),
        "longest processor time in a gap (ms)": max(busy),
        "gaps with over 50 ms of it": float((np.array(busy) > 50).sum()),
    }


def plots() -> dict[str, float]:
    """Milliseconds to redraw curves of a long run and a scatter of a million points."""
    import numpy as np
    from PySide6.QtWidgets import QApplication

    from gaussianem_gui.execution.history import Growing, History
    from gaussianem_gui.views.plots.loss_plot import LossPlot
    from gaussianem_gui.views.plots.scatter import Scatter

    app = QApplication.instance() or QApplication([])
    history = History("/nonexistent")
    rng = np.random.default_rng(0)
    for name in ("loss", "image", "kl", "distance"):
        series = Growing(4)
        series._data = np.stack([np.arange(1e6), np.arange(1e6) / 1e4, rng.random(1_000_000) + 0.1, np.arange(1e6)])
        series.size = 1_000_000
        history._series["train", name] = series
    plot = LossPlot()
    plot.resize(900, 500)
    plot.show()
    plot.set_jobs([("long", history)])
    app.processEvents()
    history.version += 1
    begin = time.perf_counter()
    plot.refresh()
    plot.plot.viewport().repaint()
    curves = time.perf_counter() - begin
    scatter = Scatter()
    scatter.resize(700, 600)
    scatter.show()
    points = rng.normal(size=(1_000_000, 2))
    begin = time.perf_counter()
    scatter.set_points(points)
    app.processEvents()
    shown = time.perf_counter() - begin
    scatter.nearest(0.0, 0.0)
    begin = time.perf_counter()
    scatter.nearest(0.5, -0.5)
    return {
        "redraw of 4 curves of 1,000,000 steps (ms)": 1e3 * curves,
        "scatter of 1,000,000 points (ms)": 1e3 * shown,
        "nearest of 1,000,000 points (ms)": 1e3 * (time.perf_counter() - begin),
    }


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update({k: v for k, v in environment(folder).items() if k.startswith("XDG")})
        from PySide6.QtCore import QSettings

        QSettings.setDefaultFormat(QSettings.Format.IniFormat)
        QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(folder))
        seconds, work = first_window(folder)
        rows = {"process start to first window (s)": seconds, "processor time of that (s)": work}
        rows |= live(folder, arguments.seconds, arguments.rate)
        rows |= plots()
    for title, value in rows.items():
        print(f"{title:<48}{value:>12,.2f}")


if __name__ == "__main__":
    main()
