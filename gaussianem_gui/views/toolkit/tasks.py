"""Work off the window's thread: run a function in a pool, take its result or error back on the window's thread."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import shiboken6
from PySide6.QtCore import QObject, QRunnable, Qt, QThreadPool, Signal

LEAST_THREADS = 8
Result = TypeVar("Result")


class _Post(QObject):
    """Carries results to the window's thread. There is one, and it outlives every view and every worker.

    A worker must not emit a signal of an object that a view owns: the view may be deleted at that very moment.
    """

    settled = Signal(object, bool, object)  # Background, succeeded, (key, number, value)

    def __init__(self) -> None:
        super().__init__()
        self.settled.connect(self._deliver, Qt.ConnectionType.QueuedConnection)

    def _deliver(self, owner: Background, succeeded: bool, letter: tuple[str, int, Any]) -> None:
        if shiboken6.isValid(owner):
            owner._settle(succeeded, *letter)


_POST: list[_Post] = []


def while_alive(view: QObject, function: Callable[[Result], object]) -> Callable[[Result], object]:
    """``function``, but nothing once ``view`` is deleted: for answers that may come after a view was closed."""
    return lambda value: function(value) if shiboken6.isValid(view) else None


def _pool() -> QThreadPool:
    """The global pool, with room for work that waits for disks even where there are few cores."""
    pool = QThreadPool.globalInstance()
    if pool.maxThreadCount() < LEAST_THREADS:
        pool.setMaxThreadCount(LEAST_THREADS)
    return pool


class _Task(QRunnable):
    def __init__(self, function: Callable[[], object], owner: Background, key: str, number: int) -> None:
        super().__init__()
        self._function, self._owner, self._key, self._number = function, owner, key, number
        self.setAutoDelete(True)

    def run(self) -> None:
        # Qt deletes the runnable, but PySide may keep its Python half: what the function holds, such as volumes, goes.
        function, owner = self.__dict__.pop("_function"), self.__dict__.pop("_owner")
        try:
            result, succeeded = function(), True
        except BaseException as error:
            error.add_note("".join(traceback.format_exception(error)))
            result, succeeded = error, False
        with contextlib.suppress(RuntimeError):  # the program ends: nobody is left to hear
            _POST[0].settled.emit(owner, succeeded, (self._key, self._number, result))


class Background(QObject):
    """Owner of background work; dies with ``parent``, and then results that still come are dropped.

    ``run(key, function, on_done)`` drops the result of an earlier run under the same key: the newest wins.
    """

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        if not _POST:
            _POST.append(_Post())
        self._newest: dict[str, int] = {}
        self._handlers: dict[tuple[str, int], tuple[Callable[[Any], object], Callable[[Exception], object] | None]] = {}
        self._count = 0

    def run(
        self,
        key: str,
        function: Callable[[], Result],
        on_done: Callable[[Result], object],
        on_error: Callable[[Exception], object] | None = None,
    ) -> None:
        """Run ``function`` in the pool, then ``on_done(result)`` or ``on_error(error)`` on the window's thread.

        Without ``on_error`` the error is raised on the window's thread.
        """
        self._count += 1
        self._newest[key] = self._count
        self._handlers[key, self._count] = (on_done, on_error)
        _pool().start(_Task(function, self, key, self._count))

    def _settle(self, succeeded: bool, key: str, number: int, value: Any) -> None:
        on_done, on_error = self._handlers.pop((key, number))
        if self._newest.get(key) != number:
            return
        del self._newest[key]
        if succeeded:
            on_done(value)
        elif on_error is not None:
            on_error(value)
        else:
            raise value

    def busy(self, key: str) -> bool:
        """True while work under ``key`` is under way."""
        return key in self._newest

    def cancel(self, key: str) -> None:
        """Drop the result of what runs under ``key``."""
        self._newest.pop(key, None)

    def cancel_all(self) -> None:
        """Drop the results of everything that runs."""
        self._newest.clear()
