"""Completion in a real shell, and help that fits a screen."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gaussianem_core.cli import COMMANDS, main
from gaussianem_core.job.completion import script
from gaussianem_core.options import JOB_OPTIONS


def completed(folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of ``words``."""
    (folder / "gaussianem.bash").write_text(script("bash", dict.fromkeys(COMMANDS, "")))
    line = " ".join(f"'{word}'" for word in words)
    ask = f"source gaussianem.bash; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _gaussianem; printf '%s\\n' "
    ask += '"${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", ask], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_bash_completes_commands_options_values_and_files(tmp_path: Path) -> None:
    assert set(completed(tmp_path, "gaussianem", "")) >= {*JOB_OPTIONS, *COMMANDS}
    assert completed(tmp_path, "gaussianem", "train", "--half_s") == ["--half_sets"]
    assert completed(tmp_path, "gaussianem", "train", "--device", "c") == ["cpu", "cuda"]
    (tmp_path / "particles.star").touch()
    assert completed(tmp_path, "gaussianem", "preprocess", "--star_file", "part") == ["particles.star"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_and_parsed(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert main(["--install_completion", shell]) == 0
    (written,) = (path for path in tmp_path.rglob("*gaussianem*") if path.is_file())
    assert str(written) in capsys.readouterr().out and "half_sets" in written.read_text()
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(written)], check=True, capture_output=True)


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--install_completion", "tcsh"]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in JOB_OPTIONS if name not in (*COMMANDS, "simulate")])
def test_help_fits_a_screen(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        main([name, "--help"])
    assert len(capsys.readouterr().out.splitlines()) <= 62
