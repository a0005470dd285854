"""Starting this Python again without importing code from its working directory. Standard library alone."""

from __future__ import annotations

import os
import sys


def python(*words: str) -> list[str]:
    """The command that runs this Python with ``words``; it imports nothing from its working directory."""
    return [sys.executable, "-P", *words]


def distrust_working_directory() -> None:
    """Set the environment so that programs started by this process load no code from their working directory.

    Jobs work in the root of a project, which may come from someone else. Python would import modules that lie there
    (``python -m``, and an empty word in PYTHONPATH), and numba would read ``.numba_config.yaml`` there, which can name
    a folder of pickled code as its cache: a value in the environment goes before that file.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    os.environ.setdefault("NUMBA_CACHE_DIR", "")
    if words := os.environ.get("PYTHONPATH"):
        os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(word) for word in words.split(os.pathsep) if word)
