"""Errors that a user can act on."""

from __future__ import annotations

import re

# Control characters but line break and tab, marks that turn the direction of writing, and halves of characters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
LONGEST_VALUE = 500  # characters of a value that an error repeats


def printable(text: str) -> str:
    """``text`` with what would steer a terminal or hide a part of it written out, as ``\\x1b``; lines and tabs stay."""
    return _UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]):02x}" if found[0] < "\u0100" else _name(found[0]), text)


def _name(character: str) -> str:
    number = ord(character)
    # What stands for a byte that is no UTF-8, as in the name of a file.
    return f"\\x{number - 0xDC00:02x}" if 0xDC80 <= number <= 0xDCFF else f"\\u{number:04x}"


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
        got = str(value)
        got = got if len(got) <= LONGEST_VALUE else got[:LONGEST_VALUE] + " …"
        super().__init__(printable(f"{argument}: {rule} (got {got}). {remedy}"))

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return InputError, (self.argument, self.rule, self.value, self.remedy)


class AbortRequested(Exception):
    """Raised at a safe point after the abort file appeared or SIGTERM arrived."""


class ResourceError(RuntimeError):
    """The machine cannot do it (disk full, GPU memory, CUDA absent); the message says what would fit."""
