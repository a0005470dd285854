"""Work off the window's thread: run a function in a pool, take its result or error back on the window's thread."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QObject, QRunnable, QThreadPool, Signal


class _Bridge(QObject):
    """Lives on the window's thread, so that its slots run there whichever thread emits."""

    done = Signal(object)
    failed = Signal(object)

    def __init__(self, parent: QObject, settle: Callable[[bool, Any], None]) -> None:
        super().__init__(parent)
        self._settle = settle
        self.done.connect(self._on_done)
        self.failed.connect(self._on_failed)

    def _on_done(self, value: object) -> None:
        self._settle(True, value)

    def _on_failed(self, error: object) -> None:
        self._settle(False, error)


class _Task(QRunnable):
    def __init__(self, function: Callable[[], Any], bridge: _Bridge) -> None:
        super().__init__()
        self._function, self._bridge = function, bridge
        self.setAutoDelete(True)

    def run(self) -> None:
        try:
            result = self._function()
        except BaseException as error:
            error.add_note("".join(traceback.format_exception(error)))
            self._send(self._bridge.failed, error)
        else:
            self._send(self._bridge.done, result)

    @staticmethod
    def _send(signal: Any, value: object) -> None:
        try:
            signal.emit(value)
        except RuntimeError:  # the owner was deleted while the work ran: nobody wants the result
            pass


class Background(QObject):
    """Owner of background work; dies with ``parent``, and then results that still come are dropped.

    ``run(key, function, on_done)`` drops the result of an earlier run under the same key: the newest wins.
    """

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._newest: dict[str, int] = {}
        self._bridges: dict[tuple[str, int], _Bridge] = {}
        self._count = 0

    def run(
        self, key: str, function: Callable[[], Any], on_done: Callable[[Any], object],
        on_error: Callable[[Exception], object] | None = None,
    ) -> None:
        """Run ``function`` in the pool, then ``on_done(result)`` or ``on_error(error)`` on the window's thread."""
        self._count += 1
        number = self._count
        self._newest[key] = number

        def settle(succeeded: bool, value: Any) -> None:
            self._bridges.pop((key, number)).deleteLater()
            if self._newest.get(key) != number:
                return
            del self._newest[key]
            handler = on_done if succeeded else on_error
            if handler is None:
                raise value
            handler(value)

        bridge = _Bridge(self, settle)
        self._bridges[key, number] = bridge
        QThreadPool.globalInstance().start(_Task(function, bridge))

    def busy(self, key: str) -> bool:
        """True while work under ``key`` is under way."""
        return key in self._newest

    def cancel(self, key: str) -> None:
        """Drop the result of what runs under ``key``."""
        self._newest.pop(key, None)
