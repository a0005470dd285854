"""What every test of the application has: folders of a user who has set nothing and asked for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings and wishes of the person who runs the tests are neither read nor changed."""
    monkeypatch.setenv("GAUSSIANEM_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
