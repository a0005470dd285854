"""Completion of ``gaussianem`` for shells: a script made from the option models, put where the shell looks for it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from gaussianem_core.errors import InputError
from gaussianem_core.job.command_line import choices
from gaussianem_core.options import JOB_OPTIONS
from gaussianem_core.runtime.files import write_atomically

SHELLS = ("bash", "zsh", "fish")


def install(shell: str, others: Mapping[str, str]) -> Path:
    """Write the completion of ``shell`` (without one, that of $SHELL) into the home directory; returns the file.

    ``others`` : commands that are no jobs, with a line of help. Raises InputError for another shell, OSError where the
    file cannot be written.
    """
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        rule = f"must be one of {', '.join(SHELLS)}"
        raise InputError("--install_completion", rule, name or "nothing", "Name the shell.")
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    target = {
        "bash": data / "bash-completion/completions/gaussianem",
        "zsh": data / "zsh/site-functions/_gaussianem",
        "fish": config / "fish/completions/gaussianem.fish",
    }[name]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, script(name, others))
    return target


def script(shell: str, others: Mapping[str, str]) -> str:
    """The completion of a shell as text: commands, the options of each job, the values of options that have few; file
    names elsewhere."""
    jobs = {name: [f"--{field}" for field in model.model_fields] for name, model in JOB_OPTIONS.items()}
    few = {f"--{field}": values for model in JOB_OPTIONS.values() for field, values in choices(model).items()}
    return _fish(jobs, few, others) if shell == "fish" else _bash(jobs, few, others, shell)


def _bash(jobs: dict[str, list[str]], few: dict[str, list[str]], others: Mapping[str, str], shell: str) -> str:
    cases = "\n".join(f'        {name}) words="{" ".join(flags)} --help" ;;' for name, flags in jobs.items())
    values = "\n".join(f'        {flag}) words="{" ".join(v)}" ;;' for flag, v in few.items())
    head = "#compdef gaussianem\nautoload -Uz bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return f"""{head}_gaussianem() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{" ".join(dict.fromkeys([*jobs, *others]))} --help --version"
    else
        case "$before" in
{values}
        esac
        if [ -z "$words" ] && [ "${{word#-}}" != "$word" ]; then
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
        fi
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    if [ -z "$words" ]; then COMPREPLY=($(compgen -f -- "$word")); fi
}}
complete -o filenames -F _gaussianem gaussianem
"""


def _fish(jobs: dict[str, list[str]], few: dict[str, list[str]], others: Mapping[str, str]) -> str:
    lines = []
    for name in dict.fromkeys([*jobs, *others]):
        text = others.get(name) or (JOB_OPTIONS[name].__doc__ or "").strip().splitlines()[0]
        lines.append(f"complete -c gaussianem -n __fish_use_subcommand -a {name} -d {shlex.quote(text)}")
    for name, flags in jobs.items():
        for flag in flags:
            text = shlex.quote(str(JOB_OPTIONS[name].model_fields[flag[2:]].description))
            values = f" -x -a {shlex.quote(' '.join(few[flag]))}" if flag in few else ""
            lines.append(
                f"complete -c gaussianem -n '__fish_seen_subcommand_from {name}' -l {flag[2:]} -d {text}{values}"
            )
    return "\n".join(lines) + "\n"
