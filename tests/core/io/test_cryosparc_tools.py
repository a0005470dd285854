"""What is written for cryoSPARC, loaded by its own reader (cryosparc-tools, where it is installed)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gaussianem_core.io.particle_rows import write_cs_rows
from gaussianem_core.io.particle_table import write_cs_subset
from gaussianem_core.io.result_group import particle_files, write_result_group


def test_selected_rows_and_their_passthrough_are_loaded_and_joined(tmp_path: Path) -> None:
    dataset = pytest.importorskip("cryosparc.dataset").Dataset
    uid = np.random.default_rng(0).choice(2**60, 12, replace=False).astype(np.uint64)
    whole = dataset({"uid": uid, "blob/path": np.array([b"J1/images.mrc"] * 12), "blob/idx": np.arange(12, dtype="u4")})
    more = dataset({"uid": uid[::-1], "ctf/df1_A": np.arange(12, dtype="f4")})
    whole.save(str(tmp_path / "all.cs"))
    more.save(str(tmp_path / "more.cs"))
    rows = np.array([1, 4, 9])
    write_cs_subset(tmp_path / "all.cs", rows, tmp_path / "selected.cs")
    write_cs_rows(tmp_path / "more.cs", tmp_path / "passthrough.cs", uids=uid[rows])
    write_result_group(tmp_path / "selected.csg", [tmp_path / "selected.cs", tmp_path / "passthrough.cs"])
    main, others = particle_files(tmp_path / "selected.csg")
    back = dataset.innerjoin(dataset.load(str(main)), dataset.load(str(others[0])))
    assert np.array_equal(np.sort(back["uid"]), np.sort(uid[rows]))
    assert {int(u): float(d) for u, d in zip(back["uid"], back["ctf/df1_A"])} == {int(uid[i]): 11.0 - i for i in rows}
