"""The Import job: files from elsewhere, checked, linked into the job's directory and reported as outputs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from gaussianem_core import __version__
from gaussianem_core.errors import InputError
from gaussianem_core.io.cryosparc import load_cs
from gaussianem_core.io.mrc import read_map
from gaussianem_core.io.result_group import particle_files
from gaussianem_core.io.star import find_particle_table, scan_star
from gaussianem_core.io.star_kinds import name_kind, refuse_tomography
from gaussianem_core.job.command_line import OptionParser
from gaussianem_core.job.events import EXIT_BAD_INPUT, EXIT_FAILURE, EXIT_SUCCESS, JobLog, refuse_existing
from gaussianem_core.options import ImportOptions, explain, load_options
from gaussianem_core.runtime.files import disk_errors, temporary_name
from gaussianem_core.runtime.sources import refuse_source
from gaussianem_gui.project.import_latents import RESULTS, import_latents
from gaussianem_gui.project.inputs import guess_kind


def run(options: ImportOptions, log: JobLog) -> None:
    """Check and link (or copy) each file; raises InputError naming the first that cannot be used."""
    names = [os.path.basename(path.rstrip("/")) for path in options.files]
    double = next((name for name in names if names.count(name) > 1), None)
    if not options.files or double is not None:
        raise InputError("option files", "must name files with different names", double or "nothing", "Rename one.")
    refuse_existing(log.directory, [*names, *(RESULTS if options.latents else ())], options.overwrite)
    kinds = [check(Path(path), options.kind) for path in options.files]
    if options.latents:
        import_latents(options, log)
        return
    for name in names:  # before anything is touched
        refuse_source(log.directory / name, options.files)
        if (log.directory / name).is_dir():
            raise InputError("output", "must not hold a folder of that name", log.directory / name, "Move it away.")
    for number, (path, name, kind) in enumerate(zip(options.files, names, kinds)):
        target = log.directory / name
        source = Path(path).resolve()
        temporary = temporary_name(target)
        try:
            if options.copy_files:
                with disk_errors(target):
                    shutil.copyfile(source, temporary)
            else:
                inside = source.is_relative_to(Path.cwd())
                os.symlink(os.path.relpath(source, log.directory.resolve()) if inside else source, temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        log.artifact(kind, name, source=str(path))
        log.progress("import", number + 1, len(names), "files")
    log.message(", ".join(f"{name} ({kind})" for name, kind in zip(names, kinds)))


def check(path: Path, kind: str) -> str:
    """The kind of a file. Raises InputError if it does not exist, cannot be read, or is not of the ``kind`` given."""
    if not path.is_file():
        raise InputError("option files", "must be files that exist", path, "Correct the path.")
    found = guess_kind(str(path))
    if not found:
        remedy = "Import the .star or .cs file that names the images." if path.suffix == ".mrcs" else "Choose another."
        raise InputError("option files", "must be .star, .cs, .csg, .mrc, .map, .cif, .pdb", path.name, remedy)
    if found in ("map", "mask"):
        found = check_map(path, kind)
    elif kind not in ("auto", found):
        raise InputError("option kind", f"must fit the file: {path.name} holds {found}", kind, "Use kind auto.")
    if found == "particles":
        check_particles(path)
    return found


def check_particles(path: Path) -> None:
    """Raise InputError if a .star, .cs or .csg file lists no particles."""
    if path.suffix.lower() == ".star":
        tables = scan_star(path)
        refuse_tomography(tables)
        find_particle_table(tables, name_kind(tables))
    else:
        load_cs(particle_files(path)[0], mmap=True)


def check_map(path: Path, kind: str) -> str:
    """``map`` or ``mask`` for a cubic MRC volume: a mask lies in 0..1, and most of its central section is 0 or 1.

    Raises InputError for another shape, and where ``kind`` does not fit.
    """
    data = read_map(path).values  # the reader of the jobs: what it takes, they take
    if len(set(data.shape)) != 1:
        raise InputError("option files", "must be cubic maps", f"{path.name}, {data.shape}", "Choose another.")
    low, high = float(data.min()), float(data.max())
    middle = data[data.shape[0] // 2]
    flat = float(np.mean((middle <= 0.001) | (middle >= 0.999)))
    is_mask = low >= -1e-3 and high <= 1.001 and high > 0.5 and flat > 0.5
    if kind == "mask" and not (low >= -1e-3 and high <= 1.001):
        raise InputError("option kind", "must be map for values outside 0..1", f"{low:g}..{high:g}", "Use kind map.")
    if kind not in ("auto", "map", "mask"):
        raise InputError("option kind", f"must fit the file: {path.name} is a volume", kind, "Use kind auto.")
    return ("mask" if is_mask else "map") if kind == "auto" else kind


def main(argv: list[str] | None = None) -> int:
    """Run ``gaussianem import FILE...`` or, as a job, ``--options FILE --job_dir DIR``; exit code as ``job.events``."""
    parser = OptionParser("gaussianem import", ImportOptions, ("files", "copy_files"))
    fields = ImportOptions.model_fields
    parser.add_argument("files", nargs="*", default=None, help=fields["files"].description)
    parser.add_argument("--copy_files", action="store_true", default=None, help=fields["copy_files"].description)
    parser.add_argument("--options", metavar="FILE", help="take the options that are not given from this file")
    given = {k: v for k, v in parser.given(sys.argv[1:] if argv is None else argv).items() if v != []}
    try:
        source = given.pop("options", None)
        values = load_options(ImportOptions, source) if source else {}
        options = ImportOptions(**{**values, **given})
        with JobLog(options.output_directory(), ["gaussianem", "import", *options.files], __version__) as log:
            run(options, log)
    except ValidationError as error:
        print(f"gaussianem import: {explain(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except InputError as error:
        print(f"gaussianem import: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        print(f"gaussianem import: {error}", file=sys.stderr)
        return EXIT_FAILURE
    return EXIT_SUCCESS


if __name__ == "__main__":
    sys.exit(main())
