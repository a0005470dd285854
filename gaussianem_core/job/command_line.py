"""Options of a job as words of a command line, made from its model: ``gaussianem JOB``, ``gaussianem job run JOB``.

Words are split into names and texts here; the model validates the values.
"""

from __future__ import annotations

import argparse
import difflib
import sys
import textwrap
from collections.abc import Collection, Sequence
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gaussianem_core.job.option_table import default_text
from gaussianem_core.options import hints, own_options_first

_PLACEHOLDERS = {"file": "FILE", "directory": "DIR", "mask": "FILE", int: "N", float: "X"}


class OptionParser(argparse.ArgumentParser):
    """An argument parser that ends with one sentence, and to which ``--data-dir`` is ``--data_dir``.

    ``model``: its fields become the options, but for those of ``leave_out``.
    """

    def __init__(self, prog: str, model: type[BaseModel], leave_out: Sequence[str] = ()) -> None:
        super().__init__(
            prog=prog,
            usage=f"{prog} [options]",
            description=model.__doc__,
            allow_abbrev=False,
            formatter_class=_Help,
        )
        self._rare = {name for name in model.model_fields if hints(model, name).get("advanced")} - set(leave_out)
        if self._rare:
            self.add_argument("--help_all", action=_HelpAll, nargs=0, help="show every option and exit")
        add_options(self, model, leave_out)

    def format_help(self) -> str:
        """Help text of the common options; ``--help_all`` shows the others."""
        return self._help(self._rare)

    def _help(self, hidden: Collection[str]) -> str:
        told = [(action, action.help) for action in self._actions if action.dest in hidden]
        for action, _ in told:
            action.help = argparse.SUPPRESS
        self.epilog = f"{len(told)} more options, which are seldom set: --help_all" if told else None
        try:
            return super().format_help()
        finally:
            for action, text in told:
                action.help = text

    def help_of_all(self) -> str:
        """Help text of every option."""
        return self._help(())

    def given(self, words: Sequence[str]) -> dict[str, Any]:
        """The options given, by name, as texts (a list of texts for several files, "yes" for a bare flag).

        ``--help`` exits with code 0, an unknown or malformed option with code 2.
        """
        found, unknown = self.parse_known_args(_plain(words))
        if unknown:
            near = difflib.get_close_matches(unknown[0], self._option_string_actions, 1, 0.7)
            self.error(f"unknown option {unknown[0]}" + (f"; {near[0]} is the nearest" if near else ""))
        return {name: value for name, value in vars(found).items() if value is not None}

    def error(self, message: str) -> NoReturn:
        """Print one sentence and exit with code 2."""
        self.exit(2, f"{self.prog}: {message}. --help lists the options.\n")


class _HelpAll(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        assert isinstance(parser, OptionParser)
        sys.stdout.write(parser.help_of_all())
        parser.exit()


class _Help(argparse.HelpFormatter):
    """Breaks lines at blanks alone: a hyphenated word can be searched for."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)


def add_options(parser: argparse.ArgumentParser, model: type[BaseModel], leave_out: Sequence[str] = ()) -> None:
    """Give ``parser`` an option for each field of ``model``; none has a default, so that what was given can be told."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name in own_options_first(model):
        if name in leave_out:
            continue
        field, hint = model.model_fields[name], hints(model, name)
        title = str(hint.get("group") or "Options")
        group = groups.setdefault(title, parser.add_argument_group(title))
        flags = [f"--{name}", *([hint["alias"]] if hint.get("alias") else [])]
        text = str(field.description) + (f" [{hint['unit']}]" if hint.get("unit") else "")
        default = default_text(field).strip("`")
        if default and field.annotation is not bool:
            text += f" ({default})" if field.is_required() else f" (default {default})"
        more: dict[str, Any] = {"help": text.replace("%", "%%")}
        if field.annotation is bool:
            group.add_argument(*flags, nargs="?", const="yes", metavar="yes|no", **more)
        elif get_origin(field.annotation) is list:
            group.add_argument(*flags, nargs="*", metavar="FILE", **more)
        else:
            group.add_argument(*flags, metavar=_placeholder(field, hint.get("widget")), **more)


def choices(model: type[BaseModel]) -> dict[str, list[str]]:
    """Allowed values of each option that has a fixed set of them (a Literal), by name."""
    return {
        name: [str(value) for value in get_args(field.annotation)]
        for name, field in model.model_fields.items()
        if get_origin(field.annotation) is Literal
    }


def without_blanks(model: type[BaseModel], given: dict[str, Any]) -> dict[str, Any]:
    """``given`` with None for "" and "None" where the option is not a text, which leaves it unset."""
    fields = model.model_fields
    return {
        name: None if value in ("", "None") and name in fields and fields[name].annotation is not str else value
        for name, value in given.items()
    }


def _placeholder(field: FieldInfo, widget: str | None) -> str:
    kinds = [kind for kind in (get_args(field.annotation) or (field.annotation,)) if kind is not type(None)]
    if get_origin(field.annotation) is Literal:
        return "{" + ",".join(map(str, kinds)) + "}"
    return _PLACEHOLDERS.get(widget or "") or _PLACEHOLDERS.get(kinds[0], "TEXT")


def _plain(words: Sequence[str]) -> list[str]:
    """Words with underscores in the names of options, and negative numbers tied to theirs."""
    plain: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            plain.append(name[:2] + name[2:].replace("-", "_") + equals + value)
        elif plain and plain[-1].startswith("--") and "=" not in plain[-1] and _is_negative_number(word):
            plain[-1] += f"={word}"
        else:
            plain.append(word)
    return plain


def _is_negative_number(word: str) -> bool:
    try:
        return word.startswith("-") and float(word) <= 0
    except ValueError:
        return False
