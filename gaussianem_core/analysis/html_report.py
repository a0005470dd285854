"""``report.html``: an analysis in one file that any browser shows without a network, made from the analysis's files.

The particles are drawn on a 2D canvas from numbers of 16 bits; volumes are 8-bit textures of at most ``LONGEST``
voxels a side, in which WebGL 2 finds the contour along each ray, so that turning and another level need no new data.
"""

from __future__ import annotations

import base64
import html
import json
import re
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from gaussianem_core import __version__
from gaussianem_core.errors import InputError
from gaussianem_core.io.mrc import read_map
from gaussianem_core.runtime.files import write_atomically
from gaussianem_core.runtime.readers import NUMBERS, is_file, read_json_object, read_npz, read_text

NAME = "report.html"
LONGEST = 64  # voxels a side of the surfaces
MOST_POINTS = 50_000  # particles in the scatter: 100 kB a column
MOST_VOLUMES = 20  # of a series
READERS = 4  # volumes in memory at a time: of 384 voxels a side one takes 0.5 GB with what it is filtered into
_NONE = 65535
_REMEDY = "Run Analyze again."
PAPER = (
    "B. He, Y. Cheng, H. Li, X. Gao, X. Gao, F. Zhang and R. Han, Resolving compositional and conformational "
    "heterogeneity in cryo-EM with deformable 3D Gaussian representations, arXiv 2512.21599 (2025)"
)


def write_html_report(directory: Path) -> Path:
    """Write ``report.html`` beside the ``summary.json`` of a finished analysis; returns its path.

    Raises
    ------
    InputError : the directory holds no analysis, or a file of it cannot be read.
    """
    summary = read_json_object(directory / "summary.json", "analysis", _REMEDY)
    try:
        columns, rows = _columns(directory, int(summary["particles"]))
        series, shape, level, top = _series(directory, summary)
        title = f"{int(summary['particles']):,} particles, {len(summary['classes'])} classes"
        methods = _methods(summary)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError("analysis", "must hold what Analyze writes", f"{directory}: {error!r}", _REMEDY) from error
    data = {
        "columns": columns,
        "rows": rows,
        "shown": len(rows) if rows is not None else int(summary["particles"]),
        "series": series,
        "shape": shape,
        "level": level,
        "top": top,
    }
    words = read_text(directory / "report.md", "analysis", _REMEDY).partition("\n")[2]
    body = to_html(words) + _figures(directory) + f"<h2>Methods</h2><p>{html.escape(methods)}</p>"
    subtitle = f"{directory.resolve().name} · GaussianEM {__version__}" + (
        f" · {len(rows):,} of the particles are drawn" if rows is not None else ""
    )
    page = (files("gaussianem_core.analysis") / "report_page.html").read_text()
    parts = {
        "TITLE": html.escape(f"Heterogeneity: {title}"),
        "SUBTITLE": html.escape(subtitle),
        "BODY": body,
        "DATA": json.dumps(data).replace("</", "<\\/"),
    }
    target = directory / NAME
    write_atomically(target, re.sub("@(TITLE|SUBTITLE|BODY|DATA)@", lambda found: parts[found[1]], page))
    return target


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()


def _columns(directory: Path, count: int) -> tuple[list[dict[str, Any]], list[int] | None]:
    """Columns of the scatter, and which particles are drawn where that is not all."""
    wanted = frozenset(("scores", "labels", "umap", "umap_rows"))
    arrays = read_npz(directory / "analysis.npz", "analysis", _REMEDY, wanted, NUMBERS)
    rows = None
    if count > MOST_POINTS:
        rows = np.sort(np.random.default_rng(0).choice(count, MOST_POINTS, replace=False))
    drawn = np.arange(count) if rows is None else rows
    found = [(f"PC {i + 1}", values) for i, values in enumerate(arrays["scores"].T[:6]) if np.ptp(values) > 0]
    if arrays["umap"].size:
        whole = np.full((count, 2), np.nan)
        whole[arrays["umap_rows"]] = arrays["umap"]
        found += [("UMAP 1", whole[:, 0]), ("UMAP 2", whole[:, 1])]
    columns: list[dict[str, Any]] = [
        {"name": name, "classes": False, "data": _packed(_sixteen_bits(values[drawn]))} for name, values in found
    ]
    labels = arrays["labels"][drawn].astype(np.uint16) - 1
    columns.append({"name": "class", "classes": True, "data": _packed(labels.astype("<u2"))})
    return columns, None if rows is None else rows.tolist()


def _sixteen_bits(values: np.ndarray) -> np.ndarray:  # (n,) -> (n,) <u2
    """From 0 to 65534 between the 0.05th and 99.95th percentile: one far particle must not press all others into a
    dot."""
    low, high = np.nanpercentile(values, [0.05, 99.95])
    scaled = np.clip((values - low) / max(float(high - low), 1e-12), 0, 1) * (_NONE - 1)
    return np.where(np.isfinite(scaled), np.round(np.nan_to_num(scaled)), _NONE).astype("<u2")


def _series(directory: Path, summary: dict[str, Any]) -> tuple[list[dict[str, Any]], list[int], float, float]:
    """Class volumes and trajectories as bytes; their common shape, the level as a share of the greatest density, and
    that density."""
    named: list[tuple[str, str, list[tuple[Path, str, int]]]] = []
    classes = [
        (directory / c["volume"], f"Class {c['class']}: {c['particles']:,} particles", int(c["class"]))
        for c in summary["classes"][:MOST_VOLUMES]
    ]
    named.append(("Classes", "classes", classes))
    for t in summary["trajectories"]:
        paths = sorted((directory / t["directory"]).glob("*.mrc"))
        chosen = [
            paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(len(paths), MOST_VOLUMES)).astype(int))
        ]
        name = f"Component {t['component']}"
        named.append((name, "trajectory", [(p, f"{name}, {k + 1} of {len(chosen)}", k) for k, p in enumerate(chosen)]))
    found = [path for _, _, volumes in named for path, _, _ in volumes if is_file(path)]
    with ThreadPoolExecutor(READERS) as threads:
        small = dict(zip(found, threads.map(_small, found)))
    if not small:
        return [], [1, 1, 1], 0.5, 1.0
    level = float(summary["contour_level"])
    top = max(float(max(v.max() for v in small.values())), 1e-12)
    above = np.any([v > 0.3 * level for v in small.values()], axis=0)
    spans = ndimage.find_objects(above.astype(np.int8))
    inside = tuple(slice(max(0, s.start - 2), s.stop + 2) for s in spans[0]) if spans else (slice(None),) * 3
    series = []
    for name, kind, volumes in named:
        frames = [
            {"label": label, "number": number, "data": _packed(_bytes(small[path][inside], top))}
            for path, label, number in volumes
            if path in small
        ]
        if frames:
            series.append({"name": name, "kind": kind, "volumes": frames})
    shape = next(iter(small.values()))[inside].shape
    return series, list(shape), min(max(level / top, 0.02), 0.98), top


def _small(path: Path) -> np.ndarray:
    values = read_map(path).values.astype(np.float32)
    factor = LONGEST / max(values.shape)
    if factor >= 1:
        return values
    return np.asarray(ndimage.zoom(ndimage.gaussian_filter(values, 0.4 / factor), factor, order=1))


def _bytes(values: np.ndarray, top: float) -> np.ndarray:
    return np.round(np.clip(values / top, 0, 1) * 255).astype(np.uint8)


def _figures(directory: Path) -> str:
    found = [path for path in sorted((directory / "plots").glob("*.png")) if path.stat().st_size < 2_000_000]
    parts = [
        f'<figure><img alt="{html.escape(path.stem)}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}">'
        f"<figcaption>{html.escape(path.stem.replace('_', ' '))}</figcaption></figure>"
        for path in found
    ]
    return "<h2>Figures</h2>" + "".join(parts) if parts else ""


def _methods(summary: dict[str, Any]) -> str:
    """What was done, in words for a paper: of numbers only those that the analysis holds."""
    text = (
        f"Heterogeneity was analysed with GaussianEM {__version__}: the molecule is described by "
        f"{summary['gaussians']:,} 3D Gaussians whose positions and densities follow a latent of {summary['zdim']} "
        f"dimensions for each of {summary['particles']:,} particles ({PAPER}). "
    )
    if summary["active_dimensions"]:
        seed = f" (seed {summary['seed']})" if "seed" in summary else ""
        shares = ", ".join(f"{100 * share:.1f} %" for share in summary["variance_share"][:3])
        text += (
            f"{summary['active_dimensions']} latent dimensions tell the particles apart; the first principal "
            f"components hold {shares} of the variance. Latents were divided into {len(summary['classes'])} classes by "
            f"k-means{seed}, and each one's volume was decoded at the particle nearest its centre. "
        )
    return text + (
        f"Volumes have a box of {summary['box']} and {summary['pixel_size_angstrom']:.4g} A/px. Surfaces on this page "
        f"are drawn from at most {LONGEST} voxels a side."
    )


def to_html(text: str) -> str:
    """``report.md`` as HTML: headings, lists, tables, paragraphs, bold and code; everything else is escaped."""
    parts: list[str] = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if lines[0].startswith("#"):
            parts.append(f"<h2>{_inline(lines[0].lstrip('# '))}</h2>")
            lines = lines[1:]
        if lines and lines[0].startswith("|"):
            cells = [[_inline(c.strip()) for c in line.strip("|").split("|")] for line in lines]
            head = "".join(f"<th>{c}</th>" for c in cells[0])
            rows = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>" for row in cells[2:])
            parts.append(f"<table><tr>{head}</tr>{rows}</table>")
        elif lines and lines[0].startswith("- "):
            parts.append("<ul>" + "".join(f"<li>{_inline(line[2:])}</li>" for line in lines) + "</ul>")
        elif lines:
            parts.append(f"<p>{_inline(' '.join(lines))}</p>")
    return "\n".join(parts)


def _inline(text: str) -> str:
    escaped = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text, quote=False))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", escaped)
