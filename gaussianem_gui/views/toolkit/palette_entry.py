"""What the command palette offers: a name, what it does, and the call. Pages say so of their own actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class PaletteEntry:
    """Something to do or to jump to, ``title`` in the words of its button; ``shortcut`` as the user presses it;
    ``reason`` says why it is not possible now, "" if it is."""

    title: str
    detail: str
    icon: str
    run: Callable[[], object]
    shortcut: str = ""
    reason: str = ""
