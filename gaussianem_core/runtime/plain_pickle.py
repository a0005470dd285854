"""Pickles read as data: dictionaries, lists, numbers, text, and what a caller can make from bytes. Nothing is run.

Python's unpickler calls whatever a file names. This one knows only the instructions that numpy and torch use to lay
out arrays, and a name in the file leads to a function of the caller's table or to an error. It is Python's own,
written in Python, whose memo is a dictionary: the one in C takes as much memory as the file says. What comes out is a
tree of few levels, so that whoever walks through it later comes to an end.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any

_ALLOWED = tuple(
    getattr(pickle, name)[0]
    for name in """PROTO FRAME STOP MARK EMPTY_DICT SETITEM SETITEMS EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1
TUPLE2 TUPLE3 NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8
BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET
GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID""".split()
)


_DEEPEST = 16
_LEAVES = (str, bytes, int, float, bool, type(None))


class PlainDict(dict[Any, Any]):
    """A dictionary of a pickle. Keys must be text or whole numbers: hashing nested tuples can take unbounded time.

    Raises pickle.UnpicklingError for another key.
    """

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(key) not in (str, int):
            raise pickle.UnpicklingError("a key is neither text nor a number")
        super().__setitem__(key, value)

    def take_state(self, state: Any) -> None:
        """Ignore attributes of the dictionary (torch keeps versions there)."""


def load_plain(data: bytes, names: Mapping[str, Any], stored: Callable[[Any], Any] | None = None) -> Any:
    """What the pickle ``data`` holds.

    Parameters
    ----------
    names : "module.name" -> the function or value that stands for it; any other name is an error before it is looked
        up. What a function returns may have a method ``take_state`` for the state that pickles keep apart.
    stored : makes what a persistent id stands for.

    Raises
    ------
    UnpicklingError for what is not plain, and, on damaged data, anything.
    """
    return _load(io.BytesIO(data), names, stored)


def load_plain_each(data: bytes, names: Mapping[str, Any]) -> list[Any]:
    """What several pickles, one behind the other, hold. ``names`` and errors as for :func:`load_plain`."""
    file, found = io.BytesIO(data), []
    while file.tell() < len(data):
        found.append(_load(file, names, None))
    return found


def _load(file: io.BytesIO, names: Mapping[str, Any], stored: Callable[[Any], Any] | None) -> Any:
    try:
        content = _PlainUnpickler(file, names, stored).load()
    except KeyError as error:
        raise pickle.UnpicklingError("it holds more than plain data") from error
    return _plain(content, 0)


def _plain(value: Any, depth: int) -> Any:
    """The same in Python's own containers."""
    if depth > _DEEPEST:
        raise pickle.UnpicklingError(f"it is nested more than {_DEEPEST} deep")
    if isinstance(value, dict):
        return {key: _plain(inner, depth + 1) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(inner, depth + 1) for inner in value)
    return value


class _Named:
    """What a name in the file leads to: it can be called and nothing else."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)


_Unpickler: Any = pickle._Unpickler  # the one written in Python


class _PlainUnpickler(_Unpickler):  # type: ignore[misc]
    dispatch: dict[int, Any] = {code: _Unpickler.dispatch[code] for code in _ALLOWED}

    def __init__(self, file: io.BytesIO, names: Mapping[str, Any], stored: Callable[[Any], Any] | None) -> None:
        super().__init__(file, encoding="latin1")
        self._names, self._stored = names, stored

    def find_class(self, module: str, name: str) -> Any:
        found = self._names.get(f"{module}.{name}")
        if found is None:
            raise pickle.UnpicklingError(f"the file wants to run {module}.{name}")
        return _Named(found) if callable(found) else found

    def persistent_load(self, pid: Any) -> Any:
        if self._stored is None:
            raise pickle.UnpicklingError("it refers to another file")
        return self._stored(pid)

    def _dictionary(self) -> None:
        self.append(PlainDict())

    def _build(self) -> None:
        state = self.stack.pop()
        self.stack[-1].take_state(state)

    def _get_value(self) -> None:
        _Unpickler.load_binget(self)
        self._refuse_shared()

    def _get_value_far(self) -> None:
        _Unpickler.load_long_binget(self)
        self._refuse_shared()

    def _refuse_shared(self) -> None:
        value = self.stack[-1]
        if isinstance(value, list | dict) or (isinstance(value, tuple) and not all(type(v) in _LEAVES for v in value)):
            raise pickle.UnpicklingError("one container stands in two places")

    dispatch |= {
        pickle.EMPTY_DICT[0]: _dictionary,
        pickle.BUILD[0]: _build,
        pickle.BINGET[0]: _get_value,
        pickle.LONG_BINGET[0]: _get_value_far,
    }
