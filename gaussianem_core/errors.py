"""Errors that a user can act on, and text from files made safe to show."""

from __future__ import annotations

import re

# Control characters (a terminal obeys them; line breaks and tabs stay), what turns the direction of writing, and the
# halves of characters by which Python stands for bytes that are no UTF-8.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST = 2000  # characters of a value that a message repeats


def printable(text: object) -> str:
    """``text`` with every character that a terminal would obey, or could not encode, written out (``\\x1b``).

    Names of columns, files and jobs come from files that others wrote: whatever shows such text calls this.
    """
    return _UNSHOWN.sub(lambda found: ascii(found.group())[1:-1], str(text))


class InputError(ValueError):
    """A mistake in what the user gave; the message is complete without a traceback.

    Parameters
    ----------
    argument : what was given (an option, a file, a column).
    rule : the rule it breaks, as a clause ("must be even").
    value : the value received.
    remedy : what to do about it, as a sentence.
    """

    def __init__(self, argument: str, rule: str, value: object, remedy: str) -> None:
        self.argument, self.rule, self.value, self.remedy = argument, rule, value, remedy
        shown = str(value)
        if len(shown) > _LONGEST:
            shown = shown[:_LONGEST] + " ..."
        super().__init__(printable(f"{argument}: {rule} (got {shown}). {remedy}"))

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, object, str]]:
        return InputError, (self.argument, self.rule, self.value, self.remedy)


class AbortRequested(Exception):
    """Raised at a safe point after the abort file appeared or SIGTERM arrived."""


class ResourceError(RuntimeError):
    """The machine cannot do it (disk full, GPU memory, CUDA absent); the message says what would fit."""


class ResultError(RuntimeError):
    """A computed value cannot be a result (NaN, infinite); the message says which, and it is not written."""
