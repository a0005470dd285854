"""report.html: one file that shows particles and surfaces in a real browser without a network."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

from gaussianem_core.analysis.html_report import to_html, write_html_report
from gaussianem_core.errors import InputError
from gaussianem_core.io.mrc import write_map

BROWSER = next(
    (found for name in ("chromium", "google-chrome", "chromium-browser") if (found := shutil.which(name))), ""
)


@pytest.fixture
def analysis(tmp_path: Path) -> Path:
    """Two classes: a ball at +x, and one at -x; a trajectory from the one to the other."""
    folder = tmp_path / "Analyze" / "job<b>004"
    grid = np.mgrid[:24, :24, :24] - 12.0
    for name, x in (("kmeans/vol_001", 5), ("kmeans/vol_002", -5), ("pc1/vol_001", 5), ("pc1/vol_002", -5)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        away = np.sqrt(grid[0] ** 2 + grid[1] ** 2 + (grid[2] - x) ** 2)  # z, y, x
        write_map(folder / f"{name}.mrc", (4 * np.exp(-((away / 4) ** 2))).astype(np.float32), 3.0, (0, 0, 0))
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(200, 2)).astype(np.float32)
    labels = (scores[:, 0] > 0).astype(np.int32) + 1
    empty = {"umap": np.zeros((0, 2), np.float32), "umap_rows": np.zeros(0, np.int64)}
    np.savez(folder / "analysis.npz", scores=scores, labels=labels, **empty)
    summary = {
        "particles": 200,
        "seed": 3,
        "gaussians": 50,
        "zdim": 2,
        "box": 24,
        "pixel_size_angstrom": 3.0,
        "contour_level": 1.5,
        "active_dimensions": 2,
        "variance_share": [0.6, 0.4],
        "classes": [{"class": i, "particles": 100, "volume": f"kmeans/vol_00{i}.mrc"} for i in (1, 2)],
        "trajectories": [{"component": 1, "directory": "pc1"}],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "report.md").write_text("# Analysis\n\nWords.\n\n## Can it be trusted?\n\n- a < b, **surely**\n")
    return folder


def test_the_report_is_one_file_that_asks_for_nothing(analysis: Path) -> None:
    page = write_html_report(analysis).read_text()
    assert not re.search(r"(?:src|href)=\"(?!data:)|https?://", page)
    assert "job&lt;b&gt;004" in page and "<b>surely</b>" in page and "arXiv 2512.21599" in page and "seed 3" in page
    data = json.loads(re.search(r"^const DATA = (.*);$", page, re.M)[1])
    assert [len(series["volumes"]) for series in data["series"]] == [2, 2]
    first = np.frombuffer(zlib.decompress(base64.b64decode(data["series"][0]["volumes"][0]["data"])), np.uint8)
    z, y, x = np.unravel_index(first.argmax(), data["shape"])
    assert (abs(z - data["shape"][0] // 2), abs(y - data["shape"][1] // 2)) <= (1, 1) and x > data["shape"][2] / 2
    across = np.frombuffer(zlib.decompress(base64.b64decode(data["columns"][0]["data"])), "<u2")
    scores = np.load(analysis / "analysis.npz")["scores"][:, 0]
    assert np.corrcoef(across, scores)[0, 1] > 0.99


def test_a_folder_without_an_analysis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"summary\.json"):
        write_html_report(tmp_path)


def test_text_is_never_taken_for_markup() -> None:
    assert "<script" not in to_html("# <script>x</script>\n\n| a |\n|---|\n| <script> |")


@pytest.mark.skipif(not BROWSER, reason="no Chromium here")
def test_a_browser_draws_particles_and_surfaces(analysis: Path, tmp_path: Path) -> None:
    from PIL import Image

    report = write_html_report(analysis)
    plain = tmp_path / "report.html"
    shutil.copy(report, plain)
    software = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--virtual-time-budget=5000"]
    command = [BROWSER, "--headless", "--no-sandbox", f"--user-data-dir={tmp_path / 'profile'}", *software]
    command += ["--window-size=1240,700", f"--screenshot={tmp_path / 'page.png'}", plain.as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    picture = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    left, right = picture[150:560, 40:590], picture[150:560, 640:1200]
    colourful = [np.ptp(part, axis=-1) > 40 for part in (left, right)]
    assert colourful[0].sum() > 200  # the particles
    places = np.argwhere(colourful[1])
    assert len(places) > 2000 and places[:, 1].mean() > right.shape[1] / 2 + 20  # class 1, the ball at +x


@pytest.mark.skipif(not BROWSER, reason="no Chromium here")
def test_hovering_clicking_turning_and_playing(analysis: Path, tmp_path: Path) -> None:
    """By a real pointer in a real browser: what the page says and draws follows."""
    playwright = pytest.importorskip("playwright.sync_api")
    plain = tmp_path / "report.html"
    shutil.copy(write_html_report(analysis), plain)
    flags = [
        "--no-sandbox",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--disable-background-networking",
    ]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=flags)
        page = browser.new_page(viewport={"width": 1240, "height": 800})
        broken: list[str] = []
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(plain.as_uri())
        page.wait_for_selector("body[data-drawn='0/0']")

        # The particle furthest to the right, whose class the figure shows in place 2.
        at = page.evaluate("""() => {
            const to = places(), xs = [...Array(DATA.shown).keys()].map(to);
            const best = xs.reduce((found, p, i) => p[0] > xs[found][0] ? i : found, 0);
            const box = scatter.getBoundingClientRect();
            return [best, box.left + xs[best][0] / devicePixelRatio, box.top + xs[best][1] / devicePixelRatio];
        }""")
        page.mouse.move(at[1], at[2])
        assert page.locator("#said").inner_text() == f"Particle {at[0]} (counted from 0), class 2"
        page.mouse.click(at[1], at[2])
        page.wait_for_selector("body[data-drawn='0/1']")

        before = page.locator("#volume").screenshot()
        box = page.locator("#volume").bounding_box()
        page.mouse.move(box["x"] + 200, box["y"] + 200)
        page.mouse.down()
        page.mouse.move(box["x"] + 260, box["y"] + 200, steps=3)
        page.mouse.up()
        assert page.evaluate("pose[0][0]") == pytest.approx(np.cos(60 / 150), abs=1e-6)
        assert page.locator("#volume").screenshot() != before

        page.locator("#series button").nth(1).click()
        page.wait_for_selector("body[data-drawn='1/0']")
        page.locator("#play").click()
        page.wait_for_selector("body[data-drawn='1/1']")
        page.wait_for_selector("body[data-drawn='1/0']")
        page.locator("#play").click()
        assert page.evaluate("timer") == 0 and not broken
        if pictures := os.environ.get("GAUSSIANEM_PICTURES"):
            page.screenshot(path=f"{pictures}/report.png")
        browser.close()
