"""The graph file on disk: damage is recognised, the file is replaced as a whole, and a last good copy is kept."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from gaussianem_core.errors import InputError
from gaussianem_core.runtime.files import write_atomically
from gaussianem_gui.project import lock as _lock
from gaussianem_gui.project.containment import inside, made_folder, touch
from gaussianem_gui.project.graph import GRAPH, Graph, damage, graph_from_text, graph_text

CHANGED = ".pipeline_has_changed"
OWN = ".gaussianem"  # our own folder in a project: last good graph, settings
GOOD = f"{OWN}/{GRAPH}.good"


def write_graph(root: Path, graph: Graph) -> None:
    """Replace the graph file, keep a copy as the last good one, and touch CHANGED for other programs.

    Raises InputError where that cannot be done; the old file then stays as it was.
    """
    text = graph_text(graph).encode(errors="surrogateescape")
    targets = [inside(root, root / GRAPH), root / GOOD]
    temporaries = [target.with_name(f".{target.name}.{os.getpid()}.tmp") for target in targets]
    try:
        made_folder(root, targets[1].parent)
        for temporary in temporaries:
            with open(temporary, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        for temporary, target in zip(temporaries, targets):
            os.replace(temporary, target)
    except OSError as error:
        raise InputError("project", "must be writable", root, f"{error.strerror}.") from error
    finally:
        for temporary in temporaries:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError, InputError):  # others see it later, by the file itself
        touch(root / CHANGED)


def _good_copy(root: Path) -> Graph | None:
    with contextlib.suppress(OSError, ValueError):
        return graph_from_text((root / GOOD).read_text(errors="surrogateescape"))
    return None


def load_graph(root: Path, read_only: bool, locked: bool = False) -> tuple[Graph, str]:
    """Graph of the project in ``root`` and a note: "" unless it was damaged and taken from the last good copy.

    A program that writes in place (not by renaming) leaves a damaged file for a moment: it is read a few times. Unless
    ``read_only``, the good copy is put in the damaged file's place. Raises InputError if the file cannot be read, or is
    damaged and there is no good copy.
    """
    wrong, text = "", ""
    good: Graph | None = None
    for attempt in range(6):
        try:
            text = (root / GRAPH).read_text(errors="surrogateescape")
        except FileNotFoundError:
            text = ""
        except OSError as error:
            raise InputError("project", "must be readable", root, f"{error.strerror}.") from error
        try:
            graph = graph_from_text(text)
            # Comparing with the copy costs a second read: only where the end looks as if it were cut, or much is gone.
            if text.endswith(("\n \n", "\n\n")) and graph.nodes and graph.output_edges:
                return graph, ""
        except InputError:
            raise
        except ValueError:
            pass
        good = good or _good_copy(root)
        wrong = damage(text, good, lambda name: (root / name).is_dir())
        if not wrong:
            return graph_from_text(text), ""
        if good is None and attempt == 5:
            raise InputError(
                GRAPH,
                "must be whole",
                wrong,
                f"No good copy is kept in {OWN}; run `gaussianem project repair`, or take it from a backup.",
            )
        time.sleep(0.0 if locked else 0.15)
    assert good is not None
    note = f"{GRAPH} was damaged ({wrong}); the last good copy is used"
    if read_only:
        return good, note
    kept = root / f"{GRAPH}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        with contextlib.nullcontext() if locked else _lock.locked(root, "restores the graph"):
            with contextlib.suppress(OSError):
                write_atomically(inside(root, kept), text.encode(errors="surrogateescape"))
            write_graph(root, good)
    except InputError as error:  # a full disk, a lock: what can be read is shown all the same
        if locked:
            raise
        return good, f"{note}, which cannot be put in its place: {error}"
    return good, f"{note}, the damaged file is kept as {kept.name}; run `gaussianem project repair` to find newer jobs"
