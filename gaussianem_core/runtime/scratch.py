"""A local copy of the stack for the time of a training (RELION's scratch directory). No torch here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from gaussianem_core.runtime.files import check_free_space, disk_errors, temporary_name


@contextlib.contextmanager
def scratch_copy(source: Path, scratch_dir: Path, local_rank: int = 0) -> Iterator[Path]:
    """A copy of ``source`` on a local disk, removed at the end.

    Of several processes on a host the one of ``local_rank`` 0 copies and the others wait; the copy gets its final name
    when it is whole. Raises ResourceError for too little space, InputError where the directory cannot be written.
    """
    size = source.stat().st_size
    key = hashlib.sha256(f"{source.absolute()}:{size}:{source.stat().st_mtime_ns}".encode()).hexdigest()[:16]
    target = Path(scratch_dir) / f"gaussianem_{key}{source.suffix}"
    if local_rank == 0:
        with disk_errors(scratch_dir):
            Path(scratch_dir).mkdir(parents=True, exist_ok=True)
        check_free_space(scratch_dir, size)
        temporary = temporary_name(target)
        try:
            with disk_errors(target):
                shutil.copyfile(source, temporary)
                os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    while not target.exists():
        time.sleep(0.2)
    try:
        yield target
    finally:
        if local_rank == 0:
            target.unlink(missing_ok=True)
