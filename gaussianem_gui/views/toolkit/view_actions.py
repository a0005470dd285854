"""What can be done in a page, for the command palette: a name, what it does, and the call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class PageAction:
    """``title`` in the words of its button; ``shortcut`` as the user presses it."""

    title: str
    detail: str
    icon: str
    run: Callable[[], object]
    shortcut: str = ""
