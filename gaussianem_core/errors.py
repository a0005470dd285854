"""Errors that a user can act on."""

from __future__ import annotations


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
        super().__init__(f"{argument}: {rule} (got {value}). {remedy}")

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return InputError, (self.argument, self.rule, self.value, self.remedy)


class AbortRequested(Exception):
    """Raised at a safe point after the abort file appeared or SIGTERM arrived."""


class ResourceError(RuntimeError):
    """The machine cannot do it (disk full, GPU memory, CUDA absent); the message says what would fit."""
