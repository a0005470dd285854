"""What was used last, up to so many bytes: pictures and surfaces that are quick to have back, never all of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Values by key; what was not used for longest goes first, the newest stays however large it is.

    ``bytes_of`` gives the size of a value.
    """

    def __init__(self, most_bytes: int, bytes_of: Callable[[Value], int]) -> None:
        self.most_bytes, self._bytes_of = most_bytes, bytes_of
        self._values: dict[Key, Value] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    def get(self, key: Key) -> Value | None:
        """The value, which counts as used by that; None if it is not kept."""
        if (value := self._values.pop(key, None)) is not None:
            self._values[key] = value
        return value

    def keep(self, key: Key, value: Value) -> None:
        """Keep a value in place of the one before, and let go of the longest unused until ``most_bytes`` suffice."""
        self._drop(key)
        self._values[key] = value
        self.bytes += self._bytes_of(value)
        while self.bytes > self.most_bytes and len(self._values) > 1:
            self._drop(next(iter(self._values)))

    def clear(self) -> None:
        """Let go of everything."""
        self._values.clear()
        self.bytes = 0

    def _drop(self, key: Key) -> None:
        if (value := self._values.pop(key, None)) is not None:
            self.bytes -= self._bytes_of(value)
