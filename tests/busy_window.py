"""Users of the desktop application who never rest, for the fault tests: the real window, offscreen, until it is killed.

Called with a project and a journal (see ``busy_user``). Each line that comes in, a number, starts one window in a
process of its own, forked after the imports so that many can be started; its process id is printed.
"""

import os
import random
import signal
import sys
from pathlib import Path

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication

from gaussianem_gui.project.job import State
from gaussianem_gui.views.project_model import ProjectModel
from gaussianem_gui.views.toolkit import notices
from gaussianem_gui.views.window.main_window import MainWindow


def use(root: str, journal: str, seed: int) -> None:
    """Open the project in a window and press its buttons."""
    chance = random.Random(seed)
    app = QApplication(["busy-window"])
    out = open(journal, "a", buffering=1)
    window = MainWindow()

    def told(what: str, name: str) -> None:
        out.write(f"{what} {name}\n")
        os.fsync(out.fileno())

    plain = ProjectModel.do

    def do(self, what, function, on_done=None, *more):  # type: ignore[no-untyped-def]
        if what == "Delete the job":
            told("deletes", window.chosen()[0])

        def done(result: object) -> None:
            if what.startswith(("Submit ", "Keep ")):
                for name in result:  # type: ignore[attr-defined]
                    told("made", name)
                    told("window", name)
            if on_done is not None:
                on_done(result)

        plain(self, what, function, done, *more)

    ProjectModel.do = do  # type: ignore[method-assign]
    notices.ask = lambda *words, **more: "lock" not in words[1]

    def act() -> None:
        model, page = window.model, window.pane.parameters
        if model is None or not model.loaded:
            return
        if window.middle.currentWidget() is window.pane and window.pane.draft and page is not None:
            page.submit(run=chance.random() < 0.6)
            return
        ended = [info.name for info in model.jobs if info.status.state.finished]
        what = chance.choice(["new", "new", "new", "clone", "alias", "delete", "abort"])
        waiting = sum(info.status.state is State.SCHEDULED and bool(info.status.detail) for info in model.jobs)
        if what == "new" and waiting < 12:
            window.pages.new_job("simulate", {"model": "m.pdb"})
        elif what == "abort":
            running = [info.name for info in model.jobs if info.status.state is State.RUNNING]
            if running:
                window.pages.open_job(chance.choice(running))
                told("aborts", window.chosen()[0])
                window.trigger("abort")
        elif ended:
            window.pages.open_job(chance.choice(ended))
            if what == "alias":
                window.job_actions.rename(window.chosen()[0], f"window {seed} {chance.random():.4f}")
            elif what in ("clone", "delete"):
                window.trigger(what)

    window.show()
    window.open_project(root)
    timer = QTimer()
    timer.timeout.connect(act)
    timer.start(100)
    app.exec()


def main(root: str, journal: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a window that was killed
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            use(root, journal, int(line))
            os._exit(0)
        print(child, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], str(Path(sys.argv[2])))
