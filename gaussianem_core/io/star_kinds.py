"""Kinds of STAR files that hold no particles for this program, recognised by their tables and columns."""

from __future__ import annotations

from collections.abc import Sequence

from gaussianem_core.errors import InputError
from gaussianem_core.io.star import StarTable
from gaussianem_core.io.tilt_series import SET_COLUMNS, VISIBLE

_BY_TABLE = {
    "pipeline_general": "the list of a RELION project's jobs",
    "joboptions_values": "a RELION job's options",
    "optimiser_general": "the settings of a refinement (_optimiser.star)",
    "model_general": "the model of a refinement (_model.star)",
    "model_classes": "the model of a refinement (_model.star)",
    "sampling_general": "the orientation sampling of a refinement (_sampling.star)",
    "guinier": "a postprocessing result",
    "fsc": "a Fourier shell correlation",
    "schedule_general": "a RELION schedule",
}
_BY_COLUMN = {
    "rlnTomoParticlesFile": "an optimisation set of tomography",
    "rlnTomoTiltSeriesStarFile": "a list of tilt series",
    "rlnTomoSizeX": "a list of tomograms",
    "rlnTomoNominalStageTiltAngle": "the images of one tilt series",
    "rlnReferenceImage": "a list of class averages",
    "rlnMicrographMovieName": "a list of movies",
    "rlnCenteredCoordinateXAngst": "picked coordinates",
    "rlnMicrographCoordinates": "a list of picked coordinates",
    "rlnCoordinateX": "picked coordinates",
    "rlnMicrographName": "a list of micrographs",
}


def name_kind(tables: Sequence[StarTable]) -> str:
    """What the file is, in words; "" if it is not recognised."""
    for table in tables:
        if table.name in _BY_TABLE:
            return _BY_TABLE[table.name]
    columns = {column for table in tables for column in table.columns}
    return next((words for column, words in _BY_COLUMN.items() if column in columns), "")


def refuse_tomography(tables: Sequence[StarTable]) -> None:
    """Raise InputError if the file holds subtomograms other than stacks of 2D images, or places in tomograms."""
    if any(SET_COLUMNS[0] in table or VISIBLE in table for table in tables):
        return
    flag = "rlnTomoSubTomosAre2DStacks"
    columns = [name for table in tables for name in table.columns]
    marks = [name for name in columns if name.startswith("rlnTomo") and name != flag]
    for table in tables:  # RELION 5 says this of all particles, and means it where it is 1
        values = dict(zip(table.columns, table.values))
        if values.get(flag) == b"1":
            marks.insert(0, f"{flag} 1")
    if marks:
        found = "3D subtomograms" if "rlnCtfImage" in columns else "subtomograms of tilt series"
        if "rlnImageName" not in columns:
            found = name_kind(tables) or "places in tomograms"
        raise InputError(
            str(tables[0].path),
            "must list single particles, or be the optimisation set of particles in stacks of 2D images",
            f"{found} ({', '.join(marks[:3])})",
            "Extract the particles as 2D stacks in RELION 5 (or export them so), and give the optimisation_set.star.",
        )
