"""Two views of one molecule that turn together."""

from __future__ import annotations

from typing import Any


def link_cameras(mine: Any, theirs: Any) -> None:
    """Keep two of napari's cameras alike from now on, beginning with how ``theirs`` stands."""
    for source, target in ((mine, theirs), (theirs, mine)):
        for name in ("angles", "zoom", "center"):
            event = getattr(source.events, name)
            event.connect(lambda _e, s=source, t=target, n=name: _copy(s, t, n))
    for name in ("center", "zoom", "angles"):
        _copy(theirs, mine, name)


def _copy(source: Any, target: Any, name: str) -> None:
    value = getattr(source, name)
    if getattr(target, name) != value:
        setattr(target, name, value)
