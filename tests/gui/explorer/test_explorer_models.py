"""The explorer's models without a window: shapes, paths, selections on disk, export, masks, images, figures, movies."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.path import Path as Outline
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parents[1] / "views"))

import exploring

from gaussianem_core.analysis import latent_paths, masks
from gaussianem_core.analysis.latent_density import LatentDensity
from gaussianem_core.errors import InputError
from gaussianem_core.imaging.pose import rotations_from_angles
from gaussianem_core.io.cryosparc import load_cs
from gaussianem_core.io.mrc import Volume, read_map
from gaussianem_core.io.particle_rows import write_star_rows
from gaussianem_core.io.result_group import particle_files
from gaussianem_core.io.stack_paths import resolve_stacks
from gaussianem_gui.explorer import figures, mask_job, movies, particle_images
from gaussianem_gui.explorer.particle_columns import Column, load_table
from gaussianem_gui.explorer.picking import Nearest, bin_points, count_cells, inside_polygon, inside_rectangle
from gaussianem_gui.explorer.select_job import export_selection
from gaussianem_gui.explorer.selections import FILE, Selections, describe
from gaussianem_gui.explorer.sources import find_sources, newest_weights
from gaussianem_gui.explorer.trust_figures import read_trust
from gaussianem_gui.project.project import Project
from gaussianem_gui.views.explorer.diagnostics_panel import judge


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Project, its Train job, sources and table."""
    project, job, second = exploring.make(tmp_path_factory.mktemp("p") / "project", 300)
    sources = find_sources(project, job)
    return project, sources, load_table(sources), second


# --- shapes and picking


@pytest.mark.parametrize("count", [50, 20_000])
@pytest.mark.parametrize("kind", ["star", "random", "line"])
def test_a_lasso_takes_what_the_even_odd_rule_takes(count, kind):
    generator = np.random.default_rng(0)
    points = generator.normal(size=(count, 2)).astype(np.float32)
    points[0] = np.nan
    angle = np.linspace(0, 2 * np.pi, 41)
    outline = {
        "star": np.stack([(1 + 0.6 * np.cos(7 * angle)) * f(angle) for f in (np.cos, np.sin)], axis=1),
        "random": generator.normal(size=(30, 2)),  # crosses itself
        "line": np.array([[-1, -1], [1, 1], [1, 1], [-1, -1]]),
    }[kind]
    got = inside_polygon(points, outline)
    closed = Outline(np.concatenate([outline, outline[:1]]))
    if kind == "star":
        assert np.array_equal(got, closed.contains_points(points))
    # an authority for outlines that cross themselves: crossings counted in Python
    rows = generator.choice(count, min(count, 300), replace=False)
    for row in rows:
        x, y = map(float, points[row])
        crossings = sum(
            (y1 <= y) != (y2 <= y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1)
            for (x1, y1), (x2, y2) in zip(outline, np.roll(outline, -1, axis=0))
            if y1 != y2
        )
        assert got[row] == bool(crossings % 2)
    assert not got[0] and not inside_polygon(points, outline[:2]).any()


def test_the_nearest_point_is_the_same_with_and_without_the_tree():
    generator = np.random.default_rng(1)
    points = generator.normal(size=(5000, 2)) * np.array([1, 1000.0])
    points[:10] = np.nan
    nearest = Nearest(points)
    places = generator.normal(size=(50, 2)) * np.array([1, 1000.0])
    before = [nearest.find(*place) for place in places]
    nearest.build()
    assert [nearest.find(*place) for place in places] == before
    scale = np.ptp(points[10:], axis=0)
    for place, row in zip(places, before):
        assert row == 10 + np.square((points[10:] - place) / scale).sum(axis=1).argmin()
    assert Nearest(np.full((3, 2), np.nan)).find(0, 0) == -1


def test_cells_count_every_point_once():
    points = np.random.default_rng(2).uniform(-1, 2, (10_000, 2)).astype(np.float32)
    points[5] = np.nan
    cells = bin_points(points, np.zeros(2), np.ones(2), (30, 20))
    counts = count_cells(cells, (30, 20))
    inside = inside_rectangle(points, np.zeros(2), np.ones(2))
    assert counts.sum() == inside.sum()
    wanted = np.histogram2d(points[inside, 0], points[inside, 1], bins=(30, 20), range=((0, 1), (0, 1)))[0]
    assert np.abs(counts - wanted).sum() <= 4  # points on an edge may fall to either side in float32


# --- the table


def test_the_table_knows_every_column(made):
    _, sources, table, _ = made
    names = table.names()
    assert names["Components"][:2] == ["PC 1", "PC 2"] and "Tilt (°)" in names["Pose"]
    assert "myLabNote" in names["Particle file"] and not table.loaded("myLabNote")
    note = table.column("myLabNote")
    assert note.classes and note.names[note.values[7]] == "n7"
    assert table.column("rlnDefocusU").values[3] == pytest.approx(15021.5)
    assert sources.original is not None and sources.original.name == "original.star"
    with pytest.raises(InputError, match="one of the table"):
        table.column("nonsense")


def test_a_place_of_a_plot_and_its_latent_belong_together(made):
    table = made[2]
    base = table.z[3].astype(float)
    for x, y in (("PC 1", "PC 3"), ("z 2", "z 3"), ("PC 2", "z 1")):
        z = table.latent_at(x, y, (0.7, -0.2), base)
        assert table.project(x, y, z)[0] == pytest.approx([0.7, -0.2], abs=1e-9)
    z = table.latent_at("PC 1", "PC 2", (0.7, -0.2), base)
    third = table.components.axes[2]
    assert (z - base) @ third == pytest.approx(0, abs=1e-9)  # the other coordinates stay
    assert table.latent_at("PC 1", "Tilt (°)", (0, 0), base) is None


def test_particle_files_of_another_length_are_refused(made, tmp_path):
    project, sources, _, _ = made
    from dataclasses import replace

    short = tmp_path / "short.star"
    short.write_text("data_particles\n\nloop_\n_rlnImageName #1\n1@a.mrcs\n2@a.mrcs\n")
    with pytest.raises(InputError, match="300 rows"):
        load_table(replace(sources, original=short))
    with pytest.raises(InputError, match="Train"):
        find_sources(project, "Preprocess/job001/")
    assert newest_weights(tmp_path) == (Path(), Path())


# --- selections


def test_selections_survive_on_disk_and_undo_goes_back_a_hundred_steps(tmp_path):
    book = Selections(1001, tmp_path, "Train/job002/")
    generator = np.random.default_rng(0)
    states = [book.mask]
    for i in range(60):
        mode = ("replace", "add", "subtract", "intersect")[i % 4]
        book.apply(generator.random(1001) < 0.5, mode, {"shape": "lasso", "x": "PC 1", "y": "PC 2"})
        states.append(book.mask)
    for state in states[-2::-1]:
        assert book.undo() and np.array_equal(book.mask, state)
    assert not book.undo()
    for state in states[1:]:
        assert book.redo() and np.array_equal(book.mask, state)
    book.keep("one")
    book.invert()
    book.keep("two")
    book.rename("two", "the rest")
    again = Selections(1001, tmp_path)
    assert [s.name for s in again.named] == ["one", "the rest"] and not again.problem
    for name in ("one", "the rest"):
        assert np.array_equal(again.find(name).mask, book.find(name).mask)
    assert again.find("one").steps == book.find("one").steps
    again.use("one")
    again.use("the rest", "add")
    assert again.mask.all() and "“the rest”" in describe(again.steps)
    again.remove("one")
    assert [s.name for s in Selections(1001, tmp_path).named] == ["the rest"]
    for bad, words in (("", "not empty"), ("the rest", "new")):
        with pytest.raises(InputError, match=words):
            again.rename("the rest", bad)
    with pytest.raises(InputError, match="at least one"):
        Selections(5).keep("none")


@pytest.mark.parametrize("damage", ["{", '{"particles": 7, "selections": []}', "bits", "bomb"])
def test_a_damaged_file_of_selections_is_kept_aside_and_said(tmp_path, damage):
    book = Selections(50, tmp_path)
    book.apply(np.arange(50) < 10, "replace", {})
    book.keep("a")
    path = tmp_path / FILE
    if damage in ("bits", "bomb"):
        import base64
        import zlib

        content = json.loads(path.read_text())
        raw = b"\0" * (3 if damage == "bits" else 10**7)
        content["selections"][0]["rows"] = base64.b64encode(zlib.compress(raw)).decode()
        path.write_text(json.dumps(content))
    else:
        path.write_text(damage)
    again = Selections(50, tmp_path)
    if damage == "bomb":  # too long: what counts is that it is not unpacked in full
        assert len(again.named) <= 1
        return
    assert not again.named and "damaged" in again.problem
    assert (tmp_path / f"{FILE}.damaged").exists() and not path.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write anywhere")
def test_a_directory_that_cannot_be_written_is_said(tmp_path):
    tmp_path.chmod(0o500)
    book = Selections(10, tmp_path)
    book.apply(np.ones(10, bool), "replace", {})
    book.keep("all")
    assert "not saved" in book.problem
    tmp_path.chmod(0o700)


# --- export


def test_cryosparc_rows_keep_uids_fields_and_order(made, tmp_path, shared_data):
    project, sources, _, _ = made
    from dataclasses import replace

    source = shared_data / "star" / "cryosparc_P12_J24_001_particles.cs"
    data = load_cs(source)
    mask = np.zeros(len(data), bool)
    mask[::3] = True
    found = export_selection(project, replace(sources, original=source), mask, name="thirds", complement=True)
    picked, rest = (load_cs(path) for path, _ in found.files)
    assert picked.dtype == data.dtype
    assert np.array_equal(picked["uid"], data["uid"][mask]) and np.array_equal(rest["uid"], data["uid"][~mask])
    assert picked.tobytes() == data[mask].tobytes()
    for path, count in found.files:  # what cryoSPARC's Import Result Group takes
        group = path.with_suffix(".csg")
        results = yaml.safe_load(group.read_text())["results"]
        assert set(results) == {"blob", "ctf", "alignments3D"}
        assert {result["num_items"] for result in results.values()} == {count}
        assert particle_files(group) == (path, ())


def test_selections_of_an_imported_link_find_its_projects_images(made, tmp_path):
    """The particle file is a link into another project, whose images it names: so do its selections."""
    project, sources, _, _ = made
    from dataclasses import replace

    text = sources.original.read_text()
    for i in range(13):
        text = text.replace(f"Extract/job009/mic{i}.mrcs", "Extract/job777/own.mrcs")
    far = tmp_path / "far"
    stack = far / "Extract/job777/own.mrcs"
    for path in (stack, far / "Refine3D/job019/run_data.star"):
        path.parent.mkdir(parents=True)
    stack.touch()
    (far / "Refine3D/job019/run_data.star").write_text(text)
    link = project.root / "Import/jobABC/run_data.star"
    link.parent.mkdir(parents=True)
    link.symlink_to(far / "Refine3D/job019/run_data.star")
    copy = export_selection(project, replace(sources, original=link), np.arange(300) % 3 == 0).files[0][0]
    (found,) = resolve_stacks(["Extract/job777/own.mrcs"], copy, project_dir=project.root)
    assert found.resolve() == stack


def test_images_named_from_the_particle_files_own_folder_are_found_from_the_copy(made):
    project, sources, _, _ = made
    from dataclasses import replace

    folder = project.root / "Simulate" / "jobABC"
    (folder / "deep").mkdir(parents=True)
    text = sources.original.read_text()
    names = {f"Extract/job009/mic{i}.mrcs": ("deep/own.mrcs" if i % 2 else "own.mrcs") for i in range(13)}
    for old, new in names.items():
        text = text.replace(old, new)
    original = folder / "particles.star"
    original.write_text(text)
    places = [folder / name for name in ("own.mrcs", "deep/own.mrcs")]
    for place in places:
        place.touch()
    mask = np.arange(300) % 3 == 0
    found = export_selection(project, replace(sources, original=original), mask)
    copy = found.files[0][0]
    resolved = resolve_stacks(["own.mrcs", "deep/own.mrcs"], copy, project_dir=project.root)
    assert [path.resolve() for path in resolved] == places
    links = sorted(p.name for p in copy.parent.iterdir() if p.is_symlink())
    assert links == ["deep", "own.mrcs"] and all(not os.readlink(copy.parent / n).startswith("/") for n in links)


def test_an_export_that_cannot_be_right_is_refused_and_leaves_no_job(made):
    project, sources, _, _ = made
    from dataclasses import replace

    jobs = len(project.jobs())
    for mask, words in ((np.zeros(300, bool), "at least one"), (np.ones(299, bool), "299 rows")):
        with pytest.raises(InputError, match=words):
            export_selection(project, sources, mask)
    with pytest.raises(InputError, match="particle file"):
        export_selection(project, replace(sources, original=None), np.ones(300, bool))
    assert len(project.jobs()) == jobs


# --- paths


def test_paths_go_where_they_are_told():
    path = latent_paths.through(np.array([[0, 0], [1, 0], [1, 3]]), 5)
    assert np.allclose(path, [[0, 0], [1, 0], [1, 1], [1, 2], [1, 3]])
    with pytest.raises(InputError, match="two anchors"):
        latent_paths.through(np.zeros((1, 2)), 5)
    with pytest.raises(InputError, match="lead somewhere"):
        latent_paths.through(np.zeros((2, 2)), 5)
    centres = np.array([[0.0, 0], [3, 0.1], [1, 0], [2, -0.1], [4, 0]])
    order = latent_paths.class_order(centres)
    assert list(order) in ([0, 2, 3, 1, 4], [4, 1, 3, 2, 0])


def test_a_geodesic_keeps_to_the_particles_where_the_straight_line_does_not():
    generator = np.random.default_rng(0)
    angle = generator.uniform(0, np.pi, 4000)
    z = np.stack([np.cos(angle), np.sin(angle), np.zeros(4000)], axis=1) + 0.05 * generator.normal(size=(4000, 3))
    ends = np.array([[1.0, 0, 0], [-1.0, 0, 0]])
    way = latent_paths.geodesic(z, ends, 30)
    assert way.shape == (30, 3) and np.allclose(way[[0, -1]], ends)
    density = LatentDensity(z.astype(np.float32))
    straight = latent_paths.through(ends, 30)
    assert density.sparsity(straight).max() > 2 and density.sparsity(way).max() < 1.2
    assert np.abs(np.hypot(way[:, 0], way[:, 1]) - 1).max() < 0.12
    assert density.counts(way).sum() == 4000
    assert density.nearest(z[17], 1)[0] == 17
    islands = np.concatenate([z[:500], z[:500] + 50])
    assert np.isfinite(latent_paths.geodesic(islands, np.stack([islands[0], islands[700]]), 10)).all()


def test_a_void_between_two_states_is_no_populated_place():
    generator = np.random.default_rng(2)
    z = 0.4 * generator.normal(size=(1000, 4)).astype(np.float32)
    z[:300, 1] += 3
    z[::100] *= 4  # a few outliers, as there always are
    density = LatentDensity(z)
    path = latent_paths.through(np.array([[0, 0, 0, 0], [0, 3.0, 0, 0]]), 21)
    counts = density.counts(path)
    empty = density.unpopulated(path, counts)
    assert empty[9:12].all() and not empty[:4].any() and not empty[-4:].any()
    standing = density.rank(path)
    assert standing[0] > 0.5 and standing[10] < 0.1 and ((standing >= 0) & (standing <= 1)).all()
    # along a component through both states, by populated places: it does not jump to and fro between them
    z[:300, 0] += 0.5
    way = latent_paths.along_populated(z, 0, 30)
    steps = np.linalg.norm(np.diff(way, axis=0), axis=1)
    assert steps.max() < 3 * np.median(steps)


def test_an_atomic_model_is_traced_and_put_where_the_map_is(tmp_path):
    from gaussianem_core.io.atomic_model import place_in_box, read_backbone

    atoms = [(x - 17, -3.0, 2.0) for x in (0.0, 3.8, 7.6, 30.0, 33.8)]  # a gap after the third residue
    lines = [
        f"ATOM  {i + 1:5d}  CA  ALA A{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C"
        for i, (x, y, z) in enumerate(atoms)
    ]
    (tmp_path / "m.pdb").write_text("\n".join([*lines, "END", ""]))
    trace = read_backbone(tmp_path / "m.pdb")
    assert trace.shape == (3, 2, 3) and np.allclose(trace[:, 0, 0], [-17, -13.2, 13])
    # built around zero: it is centred in the box; fitted to the map: its coordinates are the map's
    assert np.allclose(place_in_box(trace, 40, 2.0, (0.0, 0.0, 0.0)), trace)
    fitted = trace + 40.0
    assert np.allclose(place_in_box(fitted, 40, 2.0, (0.0, 0.0, 0.0)), fitted - 40.0)
    assert np.allclose(place_in_box(fitted - 7, 40, 2.0, (-7.0, -7.0, -7.0)), fitted - 40.0)
    water = "HETATM    1  O   HOH A   1       0.000   0.000   0.000  1.00  0.00           O"
    (tmp_path / "m.pdb").write_text(f"{water}\nEND\n")
    with pytest.raises(InputError, match="chain of atoms"):
        read_backbone(tmp_path / "m.pdb")


# --- masks


def ball(box: int = 40, radius: float = 9.0) -> Volume:
    z, y, x = np.indices((box,) * 3) - box // 2
    return Volume((np.sqrt(x**2 + y**2 + z**2) < radius).astype(np.float32), 2.0, (1.0, 2.0, 3.0))


def test_a_mask_is_dilated_and_soft_as_told(made):
    volume = ball()
    mask = masks.make_mask(volume, masks.MaskRecipe(0.5, dilate_angstrom=6.0, edge_angstrom=8.0))
    along = mask[20, 20, 20:]
    # radius 9 (the last voxel inside is 8), 3 voxels more, then 4 of cosine
    assert (along[:12] == 1).all() and (along[16:] == 0).all()
    wanted = 0.5 + 0.5 * np.cos(np.pi * np.arange(5) / 4)
    assert along[11:16] == pytest.approx(wanted, abs=0.01)
    project, _, _, _ = made
    job = mask_job.save_mask(project, mask, volume, project.root / "consensus.mrc", masks.MaskRecipe(0.5))
    back = read_map(job.directory / "mask.mrc")
    assert np.array_equal(back.values, mask) and back.origin_angstrom == (1.0, 2.0, 3.0)
    assert "consensus.mrc" in project.inputs(job) and Project.open(project.root).outputs(job)[0].kind == "mask"
    assert json.loads((job.directory / "recipe.json").read_text())["level"] == 0.5


def test_shapes_dust_holes_and_combinations():
    volume = ball()
    values = volume.values.copy()
    values[2:4, 2:4, 2:4] = 1.0
    values[20, 20, 20] = 0.0
    dusty = Volume(values, 2.0)
    plain = masks.MaskRecipe(0.5, 0, 0)
    solid = masks.make_mask(dusty, plain)
    assert solid[3, 3, 3] == 0 and solid[20, 20, 20] == 1
    half = masks.Shape("box", (-20, 0, 0), (20, 100, 100), "cut")
    cut = masks.make_mask(volume, masks.MaskRecipe(0.5, 0, 0, shapes=(half,)))
    assert cut[20, 20, :20].sum() == 0 and cut[20, 20, 22] == 1
    inside = masks.make_mask(volume, masks.MaskRecipe(0.5, 0, 0, shapes=(masks.Shape("sphere", (0, 0, 0), (6, 6, 6)),)))
    assert inside.sum() == pytest.approx(4 / 3 * np.pi * 3**3, rel=0.15)
    assert np.array_equal(masks.union(cut, solid), np.maximum(cut, solid))
    assert not masks.difference(cut, cut).any()
    assert np.array_equal(masks.intersection(cut, solid), np.minimum(cut, solid))
    eroded = masks.dilate(volume.values > 0.5, -3)
    assert np.array_equal(eroded, ndimage.distance_transform_edt(volume.values > 0.5) > 3)
    with pytest.raises(InputError, match="maximum"):
        masks.make_mask(volume, masks.MaskRecipe(7.0))
    with pytest.raises(InputError, match="voxels a side"):
        masks.union(cut, cut[:10, :10, :10])


def test_the_part_of_a_mask_that_belongs_to_some_gaussians():
    """What is nearer to one of them than to any other, so that the parts of all Gaussians make up the whole."""
    volume = ball()
    places = np.array([[-12.0, 0.0, 0.0], [12.0, 0.0, 0.0], [0.0, 12.0, 0.0]])  # x, y, z in Angstrom
    whole = masks.make_mask(volume, masks.MaskRecipe(0.5, 0, 0))
    parts = [masks.make_mask(volume, masks.MaskRecipe(0.5, 0, 0, gaussians=(i,)), places) for i in range(3)]
    assert np.array_equal(sum(parts), whole)
    y, x = (np.argwhere(parts[1] > 0) - 20).T[1:]
    assert (x >= 0).all() and (x >= y).all() and len(x) > 0.2 * whole.sum()
    with pytest.raises(InputError, match="3 Gaussians"):
        masks.make_mask(volume, masks.MaskRecipe(0.5, gaussians=(3,)), places)


# --- images


def test_images_turned_to_one_view_lie_on_each_other():
    box, generator = 48, np.random.default_rng(3)
    atoms = generator.normal(size=(5, 3)) * 7
    grid = np.arange(box) - box // 2

    def picture(rotation: np.ndarray, shift: np.ndarray) -> np.ndarray:
        seen = atoms @ rotation.T
        total = np.zeros((box, box))
        for x, y, _ in seen:
            total += np.exp(-((grid[None] - x + shift[0]) ** 2 + (grid[:, None] - y + shift[1]) ** 2) / 18)
        return total

    reference = rotations_from_angles(np.array([20.0, 50.0, 10.0]))
    for psi, shift in ((75.0, (3.0, -2.0)), (-140.0, (0.0, 4.0))):
        rotation = rotations_from_angles(np.array([20.0, 50.0, psi]))
        turn = particle_images.in_plane(reference, rotation)
        got = particle_images.aligned(picture(rotation, np.array(shift)), turn, np.array(shift))
        inner = np.hypot(*np.meshgrid(grid, grid)) < 17  # beyond it, corners come into the box
        assert np.corrcoef(got[inner], picture(reference, np.zeros(2))[inner])[0, 1] > 0.99


def test_images_of_chosen_rows_come_in_their_order(made):
    _, sources, _, _ = made
    rows = np.array([7, 3, 250])
    raw = particle_images.read_images(sources, rows, particle_images.Looks())
    assert np.array_equal(raw[1], particle_images.read_images(sources, np.array([3]), particle_images.Looks())[0])
    smooth = particle_images.read_images(sources, rows, particle_images.Looks(30.0, True))
    assert smooth.std() < raw.std()
    found = particle_images.averages_by_view(sources, np.arange(100), views=4)
    assert sum(average.count for average in found) == 100 and len(found) <= 4


# --- figures and movies


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_every_figure_is_written_in_every_format(tmp_path, ending):
    generator = np.random.default_rng(0)
    points = generator.normal(size=(400, 2))
    mask = points[:, 0] > 0
    classes = Column("Class", "", generator.integers(0, 3, 400), ("a", "b", "c"))
    values = Column("Defocus", "", points[:, 1].astype(np.float32))
    made = [
        figures.scatter(tmp_path / f"1.{ending}", points, ("PC 1", "PC 2"), classes, mask, points[:5]),
        figures.scatter(tmp_path / f"2.{ending}", points, ("PC 1", "PC 2"), values),
        figures.plane(tmp_path / f"3.{ending}", points @ points.T, (0, 1, 0, 2), ("x", "y"), "d", [(0.5, 1, "1")]),
        figures.profile(tmp_path / f"4.{ending}", *(np.arange(5.0) for _ in range(4)), ("s", "E")),
        figures.picture(tmp_path / f"5.{ending}", np.zeros((40, 60, 4), np.uint8), 1.5, "view"),
        figures.montage(tmp_path / f"6.{ending}", generator.random((10, 8, 8)), [str(i) for i in range(10)]),
        figures.bars(tmp_path / f"7.{ending}", np.arange(5), ("frame", "n"), np.arange(5) < 2),
        figures.planes(tmp_path / f"8.{ending}", [(n, generator.random((8, 8))) for n in ("XY", "XZ")], 2.5),
    ]
    head = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending]
    assert all(path.read_bytes().startswith(head) for path in made)
    assert len(list(tmp_path.iterdir())) == len(made)  # nothing half-written beside them
    if ending == "svg":
        text = made[0].read_text()
        assert "PC 1" in text and "400 particles, " in text  # text stays text
        assert all("Å" in made[place].read_text() for place in (4, 7))  # scale bars
    with pytest.raises(InputError, match="must end in"):
        figures.bars(tmp_path / "8.gif", np.arange(5), ("frame", "n"))


def test_movies_hold_every_frame(tmp_path):
    frames = [np.full((31, 41, 4), 20 * i, np.uint8) for i in range(6)]
    gif = movies.export_movie(tmp_path / "a.gif", frames, 10, swing=True)
    from PIL import Image

    with Image.open(gif) as image:
        assert image.n_frames == 10 and image.size == (40, 30)
    pytest.importorskip("imageio_ffmpeg")
    import imageio_ffmpeg

    movie = movies.export_movie(tmp_path / "a.mp4", frames, 10)
    count, _ = imageio_ffmpeg.count_frames_and_secs(str(movie))
    assert count == 6
    for bad, words in (((tmp_path / "a.avi", frames), "must end"), ((tmp_path / "a.gif", frames[:1]), "two frames")):
        with pytest.raises(InputError, match=words):
            movies.export_movie(*bad)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gif", "a.mp4"]


# --- figures of trust


@pytest.mark.parametrize(
    "trust",
    [
        [1, 2],
        {"half_sets": [{"difference_correlation": None}]},
        {"half_sets": {"a": 1}},
        {"dependence": {"defocus": {"explained": "much"}}},
        {"dependence": ["defocus"]},
        {"outliers": {"flagged": -1, "share": 0.5}},
        {"outliers": {"flagged": 2, "share": float("nan")}},
        "fine",
    ],
)
def test_odd_figures_of_trust_are_a_sentence_beside_the_other_checks(made, tmp_path, trust):
    _, sources, table, _ = made
    (tmp_path / "summary.json").write_text(json.dumps({"trust": trust}))
    with pytest.raises(InputError, match=r"summary.json, trust.*must be as Analyze writes it"):
        read_trust(tmp_path / "summary.json")
    found = judge(table, replace(sources, analysis=tmp_path))
    assert "Run Analyze again" in found[0][1] and len(found) > 2


def test_figures_of_trust_as_analyze_writes_them(made, tmp_path):
    _, sources, table, _ = made
    entry = {"explained": 0.3, "chance": 0.01, "p_value": None, "level": "warning"}
    trust = {"dependence": {"defocus": entry}, "half_sets": [{"difference_correlation": 0.9}]}
    trust["outliers"] = {"flagged": 3, "share": 0.01, "rule": "x"}
    (tmp_path / "summary.json").write_text(json.dumps({"trust": trust}))
    words = " ".join(text for _, text in judge(table, replace(sources, analysis=tmp_path)))
    assert "30.0 % of the variation follows the defocus" in words and "1 of 1 classes" in words
    assert "3 images (1.0 %) fit badly" in words
    (tmp_path / "summary.json").write_text("{}")
    assert read_trust(tmp_path / "summary.json").half_sets == []


# --- symmetry-expanded particles


def test_selections_of_expanded_particles_come_as_copies_and_as_images(made, tmp_path):
    """The 300 rows taken for two copies each of 150 images, from a file with a row an image or expanded itself."""
    project, sources, _, _ = made
    image, source = np.repeat(np.arange(150), 2), sources.original
    np.save(tmp_path / "images.npy", image)
    write_star_rows(source, tmp_path / "given.star", np.arange(0, 300, 2))
    given = (tmp_path / "given.star").read_text().splitlines()
    mask = np.random.default_rng(0).random(300) < 0.3
    rows = [line for line in source.read_text().splitlines() if "@" in line]
    for unexpanded in (tmp_path / "given.star", None):
        these = replace(sources, images=tmp_path / "images.npy", unexpanded=unexpanded)
        found = export_selection(project, these, mask, complement=True).files
        words = ("selected", "selected_unique", "rest", "rest_unique")
        assert [path.stem for path, _ in found] == [f"particles_{word}" for word in words]
        for (path, count), part in zip(found, (mask, mask, ~mask, ~mask), strict=True):
            unique = "unique" in path.stem
            kept = np.unique(image[part]) if unique else np.flatnonzero(part)
            lines = [line for line in path.read_text().splitlines() if "@" in line]
            assert count == len(kept) == len(lines)
            if not unique:
                assert lines == [rows[i] for i in kept]
            elif unexpanded:
                assert lines == [line for line in given if "@" in line and line in lines]
            else:
                assert lines == [rows[np.flatnonzero(part & (image == i))[0]] for i in kept]


def test_rows_of_one_image_show_that_image(made, tmp_path):
    _, sources, _, _ = made
    np.save(tmp_path / "images.npy", np.arange(300)[::-1])
    these = replace(sources, images=tmp_path / "images.npy")
    looks = particle_images.Looks()
    shown = particle_images.read_images(these, np.array([0, 299]), looks)
    assert np.array_equal(shown, particle_images.read_images(sources, np.array([299, 0]), looks))
