"""Events shown at a terminal: a progress bar with rate and time left, and messages."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from gaussianem_core.errors import printable


class Terminal:
    """Shows events; without a terminal (a log file) it prints messages, and a line at each tenth of a stage."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
        self._tasks: dict[str, Any] = {}
        self._tenths: dict[str, int] = {}

    def __enter__(self) -> Terminal:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, event: dict[str, Any]) -> None:
        """Show one event; control characters in texts that come from files are escaped."""
        event = {name: printable(value) if isinstance(value, str) else value for name, value in event.items()}
        if event["type"] == "message":
            self._console.print(event["text"], markup=False)
        elif event["type"] == "artifact":
            self._console.print(f"wrote {event['path']}: {event.get('label', '')}", markup=False, style="dim")
        elif event["type"] == "progress":
            self._show_progress(event)

    def _show_progress(self, event: dict[str, Any]) -> None:
        stage, done, total = event["stage"], event["done"], event["total"]
        unit = event.get("unit", "")
        rate = f"{event['rate']:,.0f} {unit}/s" if event.get("rate") else ""
        if self._progress is None:
            tenth = int(10 * done / max(total, 1))
            if self._tenths.get(stage) != tenth:
                self._tenths[stage] = tenth
                self._console.print(f"{stage}: {done:,.0f} of {total:,.0f} {unit} {rate}", markup=False)
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total, rate="")
        self._progress.update(self._tasks[stage], completed=done, total=total, rate=rate)
