"""Times and sizes as text, in the units one would say them in. No Qt here."""

from __future__ import annotations

import time


def seconds_text(seconds: float | None) -> str:
    """A duration in seconds as text: "42 s", "3 min 20 s", "12 min", "5 h 12 min", "3 d 4 h"; a dash for None or
    NaN."""
    if seconds is None or seconds != seconds:
        return "–"
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def bytes_text(size: float) -> str:
    """A size in bytes as text: "512 B", "3.4 MB", "1.2 TB" (powers of 1000, as disks are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def ago_text(when: float, now: float | None = None) -> str:
    """How long before ``now`` a time was (both Unix seconds; now if None): "just now", "5 min ago", "3 h ago"; from a
    day on the local date."""
    gone = (time.time() if now is None else now) - when
    if gone < 60:
        return "just now"
    if gone < 3600:
        return f"{gone // 60:.0f} min ago"
    if gone < 86400:
        return f"{gone // 3600:.0f} h ago"
    return time.strftime("%d %b %Y" if gone > 300 * 86400 else "%d %b, %H:%M", time.localtime(when))


def count_text(count: int, noun: str) -> str:
    """A count with its noun: "1 job", "1,204 particles"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
