"""How each column of RELION's and each field of cryoSPARC's particle files is treated: used, refused or ignored.

The guide's page is made from these tables: ``python -m gaussianem_core.io.columns resources/guide/08-columns.md``.
"""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gaussianem_core.errors import InputError
from gaussianem_core.io.star import EMPTY_VALUES, StarTable, read_columns
from gaussianem_core.ranges import refuse_rows
from gaussianem_core.runtime.files import write_atomically

BEGIN, END = "<!-- columns -->", "<!-- /columns -->"


class Use(enum.Enum):
    """How a column is treated. ``REFUSED`` applies only to values that are not neutral, which would change an image."""

    USED = "used"
    REFUSED = "refused"
    IGNORED = "ignored"


class Meaning(NamedTuple):
    """Meaning of a group of columns.

    words : what they are used for, why they are ignored, or what to do about a refusal.
    names : of columns; ``*`` stands for any letters.
    neutral : values of refused columns that change no image.
    """

    use: Use
    words: str
    names: tuple[str, ...]
    neutral: tuple[float, ...] = ()


TILT_SERIES = "rlnTomo*"
USED, REFUSED, IGNORED = Use.USED, Use.REFUSED, Use.IGNORED
_LEAVE_OUT = "Correct the images for it where they are made, or remove the column to leave it out."

RELION: tuple[Meaning, ...] = (
    Meaning(USED, "the image; without a number before `@` for a file of one image", ("rlnImageName",)),
    Meaning(USED, "box and pixel size of the images", ("rlnImageSize", "rlnImagePixelSize")),
    Meaning(
        USED,
        "pixel size where rlnImagePixelSize is missing",
        ("rlnDetectorPixelSize", "rlnMagnification", "rlnPixelSize"),
    ),
    Meaning(USED, "2; subtomograms (3) are refused", ("rlnImageDimensionality",)),
    Meaning(USED, "orientation", ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")),
    Meaning(
        USED,
        "place in the image; in Angstrom before pixels",
        ("rlnOriginX", "rlnOriginY", "rlnOriginXAngst", "rlnOriginYAngst"),
    ),
    Meaning(USED, "defocus and astigmatism", ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")),
    Meaning(
        USED,
        "the microscope; the particle's own value before the optics group's; can be given as an option",
        ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"),
    ),
    Meaning(USED, "phase plate, in the CTF's argument", ("rlnPhaseShift",)),
    Meaning(USED, "envelope exp(-B k^2 / 4) of the particle's CTF, also with Warp's minus", ("rlnCtfBfactor",)),
    Meaning(USED, "factor of the particle's CTF", ("rlnCtfScalefactor",)),
    Meaning(
        USED,
        "anisotropic magnification, taken off the images; from image frequencies to true ones",
        ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11"),
    ),
    Meaning(USED, "phase error, taken off the images", ("rlnBeamTiltX", "rlnBeamTiltY", "rlnOddZernike")),
    Meaning(USED, "added to the CTF's argument", ("rlnEvenZernike",)),
    Meaning(USED, "the model's CTF loses its sign", ("rlnCtfDataArePhaseFlipped",)),
    Meaning(
        USED, "the images are divided by their CTF again, where it lets through", ("rlnCtfDataAreCtfPremultiplied",)
    ),
    Meaning(USED, "the model has no CTF", ("rlnCtfDataAreCtfCorrected",)),
    Meaning(
        USED, "which optics group, half set, micrograph", ("rlnOpticsGroup", "rlnRandomSubset", "rlnMicrographName")
    ),
    Meaning(
        REFUSED,
        "Mirror those images and their angles in the program that set it, or remove the column.",
        ("rlnIsFlip",),
        (0,),
    ),
    Meaning(
        REFUSED,
        "Extract the particles again at the corrected pixel size, or remove the column.",
        ("rlnMagnificationCorrection",),
        (0, 1),
    ),
    Meaning(
        REFUSED,
        "Tilt series come with their geometry: give the optimisation_set.star that names these particles.",
        (
            TILT_SERIES,
            "rlnTomogram*",
            "rlnCtfBfactorPerElectronDose",
        ),
        (0,),
    ),
    Meaning(
        IGNORED,
        "brightness: each image's is estimated from the image",
        ("rlnNormCorrection*", "rlnGroupScaleCorrection", "rlnImageWeight"),
    ),
    Meaning(
        IGNORED,
        "an envelope that all images share, as the map does; it is said where optics groups differ in it",
        ("rlnMtfFileName", "rlnMtfValue"),
    ),
    Meaning(
        IGNORED,
        "RELION's own image model leaves them out",
        (
            "rlnChromaticAberration",
            "rlnEnergyLoss",
            "rlnLensStability",
            "rlnConvergenceCone",
            "rlnLongitudinalDisplacement",
            "rlnTransversalDisplacement",
            "rlnCtfValue",
            "rlnMatrix_*",
            "rlnSamplingRate*",
            "rlnEnabled",
        ),
    ),
    Meaning(IGNORED, "along the beam: moves nothing in a projection", ("rlnOriginZ", "rlnOriginZAngst")),
    Meaning(
        IGNORED,
        "where a search started or how sure it was; the pose itself is used",
        (
            "rlnOrigin*Prior*",
            "rlnAngle*Prior",
            "rlnAngle*FlipRatio",
            "rlnAnglePsiFlip",
            "rlnOrientation*",
            "rlnLogLikeli*",
            "rlnMaxValueProbDistribution",
            "rlnNrOfSignificantSamples",
            "rlnKullbackLeib*",
            "rlnClassNumber",
            "rlnClassDistribution",
            "rlnClassPrior*",
            "rlnClassIndex",
            "rlnClassScore",
            "rlnSpectralOrientabilityContribution",
            "rlnAccuracy*",
            "rlnDiff2RandomHalves",
        ),
    ),
    Meaning(
        IGNORED,
        "how well something fitted, was picked or selected",
        (
            "rlnCtfFigureOfMerit",
            "rlnCtfMaxResolution",
            "rlnCtfValidationScore",
            "rlnCtfIceRingDensity",
            "rlnCtfAstigmatism",
            "rlnCtfPowerSpectrum",
            "rlnCtfImage",
            "rlnAutopickFigureOfMerit",
            "rlnParticleFigureOfMerit",
            "rlnParticleSelect*",
            "rlnSelected",
            "rlnSortedIndex",
            "rlnIsSelected",
            "rlnPredictedClassScore",
        ),
    ),
    Meaning(
        IGNORED,
        "names, numbers and groups that say where something comes from",
        (
            "rlnImageOriginalName",
            "rlnReconstructImageName",
            "rlnImageId",
            "rlnDataType",
            "rlnImageSize?",
            "rlnOpticsGroupName",
            "rlnOpticsGroupN*",
            "rlnOpticsStarFile",
            "rlnGroupN*",
            "rlnBeamTiltClass",
            "rlnBeamTiltGroupName",
            "rlnParticleId",
            "rlnParticleN*",
            "rlnOriginalParticleName",
            "rlnOriginalImageSize",
            "rlnMicrograph*",
            "rlnCoordinate?",
            "rlnCenteredCoordinate*",
            "rlnArea*",
            "rlnComment",
            "rlnUnknownLabel",
        ),
    ),
    Meaning(
        IGNORED,
        "movies, helices, bodies: the particle's pose has what they gave",
        (
            "rlnMovieFrame*",
            "rlnNrOfFrames",
            "rlnAverageNrOfFrames",
            "rlnAccumMotion*",
            "rlnMotionModel*",
            "rlnPerFrame*",
            "rlnEER*",
            "rlnStarFileMovieParticles",
            "rlnHelical*",
            "rlnNrHelical*",
            "rlnIsHelix",
            "rlnIgnoreHelicalSymmetry",
            "rlnBody*",
        ),
    ),
    Meaning(
        IGNORED,
        "pixel statistics of images and class averages",
        (
            "rlnMinimumValue",
            "rlnMaximumValue",
            "rlnAverageValue",
            "rlnStandardDeviationValue",
            "rlnSkewnessValue",
            "rlnKurtosisExcessValue",
            "rlnCircleMasked*",
            "rlnRing*",
            "rlnInnerCircle*",
            "rlnFft*",
            "rlnProtein*",
            "rlnSolvent*",
            "rlnRelativeSignalIntensity",
            "rlnScatteredSignal",
            "rlnEdgeSignal",
            "rlnLowpassFilteredImage*",
            "rlnTotalEntropy",
            "rlnGranulo",
            "rlnLBP",
            "rlnNormalizedFeatureVector",
            "rlnZernikeMoments",
            "rlnWeightedResolution",
            "rlnRelativeResolution",
        ),
    ),
    Meaning(
        IGNORED,
        "of RELION's jobs, settings, models, masks and curves, in other files than particles'",
        (
            "rlnJob*",
            "rlnScheme*",
            "rlnPipeLine*",
            "rlnSgd*",
            "rlnGrad*",
            "rlnDo[A-Z]*",
            "rlnBlush*",
            "rlnExtRecons*",
            "rlnMask*",
            "rlnReference*",
            "rlnSubImage*",
            "rlnAverage*",
            "rlnCurrent*",
            "rlnSsnrMap",
            "rlnDataDimensionality",
            "rlnEstimatedResolution",
            "rln*FourierCompleteness",
            "rlnGoldStandardFsc",
            "rlnFourierSpaceInterpolator",
            "rlnLogLikelihood",
            "rlnMinRadiusNnInterpolation",
            "rlnNr[A-Z]*",
            "rlnPaddingFactor",
            "rlnSigma*",
            "rlnSignalToNoiseRatio",
            "rlnTau*",
            "rlnOverallAccuracy*",
            "rlnAdaptiveOversample*",
            "rlnAutoLocalSearches*",
            "rlnAvailableMemory",
            "rlnBestResolutionThusFar",
            "rlnCoarseImageSize",
            "rlnChangesOptimal*",
            "rlnExperimentalDataStarFile",
            "rlnMaximum[CS]*",
            "rlnMaxNumberOfPooledParticles",
            "rlnFix*Estimates",
            "rlnHas*",
            "rlnFourierMask",
            "rlnLowresLimit*",
            "rlnHighresLimit*",
            "rlnIncrementImageSize",
            "rlnLocalSymmetryFile",
            "rlnJoinHalves*",
            "rlnMagnificationSearch*",
            "rlnModelStarFile*",
            "rlnNumberOf*",
            "rlnOffset*",
            "rlnOutputRootName",
            "rlnParticleDiameter",
            "rlnRadiusMask*",
            "rlnRandomSeed",
            "rlnRefsAreCtfCorrected",
            "rlnSmallestChanges*",
            "rlnOrientSamplingStarFile",
            "rlnUseTooCoarseSampling",
            "rlnWidthMaskEdge",
            "rlnFinalResolution",
            "rlnBfactorUsedForSharpening",
            "rlnParticleBoxFraction*",
            "rln*FourierShellCorrelation*",
            "rlnAmplitudeCorrelation*",
            "rlnDifferentialPhaseResidual*",
            "rln*GuinierPlot",
            "rlnLogAmplitudes*",
            "rlnResolution*",
            "rlnAngstromResolution",
            "rlnMolecularWeight",
            "rlnRandomiseFrom",
            "rlnUnfilteredMap*",
            "rlnPostprocessedMap*",
            "rlnIs3D*",
            "rlnHealpixOrder*",
            "rlnTiltAngleLimit",
            "rlnSamplingPerturb*",
            "rlnPsiStep*",
            "rlnSymmetryGroup",
            "rlnSpectralIndex",
            "rlnEtomoDirectiveFile",
            "rlnAreTomo*",
            "rlnIMOD*",
            "randomSeed",
        ),
    ),
    Meaning(IGNORED, "written by Analyze: class, components, latents", ("gaussianem*",)),
    Meaning(
        REFUSED,
        _LEAVE_OUT,
        ("rlnCtf*", "rlnBeam*", "rlnMagMat*", "rln*Zernike*", "rlnDefocus*", "rln*Aberration*"),
        (0,),
    ),
)
"""RELION's columns, those of newer versions that would change the CTF among them (the last); the first match counts."""

CRYOSPARC: tuple[Meaning, ...] = (
    Meaning(USED, "the image, its box and pixel size", ("blob/path", "blob/idx", "blob/shape", "blob/psize_A")),
    Meaning(USED, "white or dark protein, said where `--no_invert` contradicts it", ("blob/sign",)),
    Meaning(USED, "joins the passthrough files; names particles in selections", ("uid",)),
    Meaning(USED, "orientation and place", ("alignments3D/pose", "alignments3D/shift", "alignments3D/psize_A")),
    Meaning(
        USED,
        "half set, optics group, micrograph",
        ("alignments3D/split", "ctf/exp_group_id", "location/micrograph_path"),
    ),
    Meaning(USED, "defocus and astigmatism", ("ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad")),
    Meaning(USED, "the microscope; can be given as an option", ("ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast")),
    Meaning(USED, "phase plate, in the CTF's argument", ("ctf/phase_shift_rad",)),
    Meaning(USED, "envelope exp(-B k^2 / 4) and factor of the particle's CTF", ("ctf/bfactor", "ctf/scale")),
    Meaning(USED, "phase error, taken off the images", ("ctf/shift_A", "ctf/tilt_A", "ctf/trefoil_A")),
    Meaning(USED, "added to the CTF's argument", ("ctf/tetra_A",)),
    Meaning(USED, "anisotropic magnification, taken off the images", ("ctf/anisomag",)),
    Meaning(
        IGNORED,
        "brightness: each image's is estimated from the image",
        ("alignments3D/alpha", "alignments3D/alpha_min", "ctf/scale_const"),
    ),
    Meaning(IGNORED, "which program found the CTF, from what", ("ctf/type", "ctf/path", "ctf/fit_data_path")),
    Meaning(REFUSED, _LEAVE_OUT, ("ctf/*",), (0,)),
    Meaning(
        IGNORED,
        "how well the pose fits, and what local searches started from; the pose itself is used",
        ("alignments3D/*",),
    ),
    Meaning(
        IGNORED,
        "other alignments, classes, components and copies than the refinement's",
        (
            "alignments2D/*",
            "alignments*3D_*/*",
            "alignments_class*/*",
            "components_mode*/*",
            "sym_expand/*",
            "blob/import_sig",
        ),
    ),
    Meaning(
        IGNORED,
        "where the particle was picked, movies, micrographs, statistics",
        (
            "location/*",
            "pick_stats/*",
            "filament/*",
            "motion/*",
            "rigid_motion/*",
            "local_motion/*",
            "spline_motion/*",
            "micrograph_blob*/*",
            "movie_blob/*",
            "background_blob/*",
            "thumbnail*/*",
            "mscope_params/*",
            "gain_ref_blob/*",
            "ctf_stats/*",
            "micrograph_thumbnail*/*",
            "ml_properties/*",
            "blob/*",
        ),
    ),
)
"""cryoSPARC's fields; the first match counts."""


def meaning(name: str, table: Sequence[Meaning]) -> Meaning | None:
    """The row of ``table`` that column ``name`` falls under, the first that matches; None for an unknown column."""
    return next((row for row in table if any(fnmatchcase(name, pattern) for pattern in row.names)), None)


def check_star_columns(tables: Iterable[StarTable], tilts: bool = False) -> tuple[str, ...]:
    """Check the columns of the tables of particles and optics groups; returns notes for the user.

    ``tilts``: of tilt series, whose own columns are read elsewhere (see ``tilt_series``).

    Raises InputError for a column that would change images and is not supported, unless its values are neutral.
    """
    notes: list[str] = []
    unknown: list[str] = []
    for table in tables:
        for name in table.columns:
            found = meaning(name, RELION)
            if found is None:
                unknown.append(name)
            elif found.use is REFUSED and tilts and TILT_SERIES in found.names:
                continue
            elif found.use is REFUSED:
                texts, row = read_columns(table, text=[name])[1][name]
                bad = np.array([not _is_neutral(text, found.neutral) for text in texts])[row]
                _refuse(bad, table.path, name, np.array(texts, np.str_)[row], found.words)
            elif name == "rlnMtfFileName" and len(set(read_columns(table, text=[name])[1][name][0])) > 1:
                notes.append(f"{name}: the optics groups' detectors differ, and their MTFs are not applied")
    return (*notes, *_said(unknown))


def check_cs_fields(path: str | os.PathLike[str], data: npt.NDArray[np.void]) -> tuple[str, ...]:
    """Check the fields of a .cs file's ``data`` (N,); returns notes for the user.

    Raises InputError as :func:`check_star_columns`.
    """
    unknown: list[str] = []
    for name in data.dtype.names or ():
        found = meaning(name, CRYOSPARC)
        if found is None:
            unknown.append(name)
        elif found.use is REFUSED and data[name].dtype.kind in "iufb":
            values = data[name].reshape(len(data), -1)
            bad = np.asarray(~np.isin(np.nan_to_num(values), found.neutral).all(axis=1))
            _refuse(bad, path, name, values[:, 0], found.words)
    return _said(unknown)


def _is_neutral(text: str, neutral: tuple[float, ...]) -> bool:
    try:
        return text.encode(errors="surrogateescape") in EMPTY_VALUES or float(text) in neutral
    except ValueError:
        return False


def _refuse(
    bad: npt.NDArray[np.bool_], path: str | os.PathLike[str], name: str, values: npt.NDArray[np.generic], remedy: str
) -> None:
    refuse_rows(bad, path, name, "is not supported, and would change the images", values, remedy)


def _said(unknown: Sequence[str]) -> tuple[str, ...]:
    """A line that names columns nothing is known of."""
    names = list(dict.fromkeys(unknown))
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (f"not known, and not used: {', '.join(names[:5])}{more}",) if names else ()


# ---- the guide's page ----------------------------------------------------------------------------------------------


def page() -> str:
    """The tables in Markdown: RELION's, then cryoSPARC's."""
    parts = []
    for title, table in (("RELION's columns", RELION), ("cryoSPARC's fields", CRYOSPARC)):
        parts += [f"## {title}", ""]
        for use, what in ((USED, "What it does"), (REFUSED, "Unless neutral: what to do"), (IGNORED, "Why")):
            rows = [row for row in table if row.use is use]
            parts += [f"### {use.value.capitalize()}", "", f"| Columns | {what} |", "|---|---|"]
            parts += [f"| {_names(row)} | {row.words.replace('|', ' ')} |" for row in rows]
            parts.append("")
    return "\n".join(parts)


def _names(row: Meaning) -> str:
    neutral = f" (neutral: {' or '.join(f'{value:g}' for value in row.neutral)})" if row.neutral else ""
    return ", ".join(f"`{name}`" for name in row.names) + neutral


def main(arguments: Sequence[str]) -> int:
    """Print the tables, or renew those between their marks in the files named.

    Raises InputError for a file without these marks.
    """
    for name in arguments:
        head, begin, rest = Path(name).read_text().partition(BEGIN)
        _, end, tail = rest.partition(END)
        if not begin or not end:
            raise InputError(name, f"must hold the lines {BEGIN} and {END}", "neither or one", "Add them.")
        write_atomically(Path(name), f"{head}{BEGIN}\n\n{page()}\n{END}{tail}")
    if not arguments:
        print(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
