"""Hostile and damaged files: each gives one sentence that names the file, and takes no more memory than it is long."""

from __future__ import annotations

import io
import os
import pickle
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussianem_core.errors import InputError
from gaussianem_core.imaging.ctf import load_ctf
from gaussianem_core.imaging.pose import load_poses
from gaussianem_core.io.checkpoint import load_checkpoint, load_tensors, save_checkpoint
from gaussianem_core.io.cryosparc import load_cs
from gaussianem_core.io.latents import load_latents
from gaussianem_core.io.ply import read_points
from gaussianem_core.runtime.readers import read_json, read_npy, read_npz, unpacked

REMEDY = "Give another file."


def numbers(path: Path) -> object:
    return read_npy(path, "array", REMEDY)


def refuse(read: Callable[[Path], object], path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        read(path)
    assert str(path) in str(refused.value)


# ---- .npy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [numbers, load_poses, load_ctf, load_cs])
def test_a_broken_npy_header_names_the_file(tmp_path: Path, load: Callable[[Path], object]) -> None:
    """Headers are Python literals: a leading zero is a SyntaxError to its parser, a wrong bracket a TokenError."""
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((4, 11), np.float32))
    whole = path.read_bytes()
    for old, new in ((b"(4, 11)", b"(04,11)"), (b"}", b"("), (b"(4, 11)", b"(((((((" * 1), (b"'<f4'", b"'|O8'")):
        path.write_bytes(whole.replace(old, new))
        refuse(load, path, "readable .npy file")


def test_npy_is_as_long_as_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((100, 2), np.float32))
    whole = path.read_bytes()
    for claim in (b"(101, 2)", b"(999999999999, 2)", b"(99, 2)", b"(-1, 2)"):
        path.write_bytes(whole.replace(b"(100, 2), }" + b" " * (len(claim) - 8), claim + b", }"))
        refuse(numbers, path, "was not read")
    path.write_bytes(whole[:-1])
    refuse(numbers, path, "cut off, or damaged")
    path.write_bytes(whole)
    assert numbers(path).shape == (100, 2)  # type: ignore[attr-defined]


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    refuse(numbers, tmp_path / "pipe.npy", "not a plain file")
    refuse(numbers, tmp_path, "not a plain file|Is a directory")
    refuse(numbers, tmp_path / "absent.npy", "No such file")
    with pytest.raises(InputError, match="no file can have this name"):
        numbers(Path("a\0b"))


# ---- archives ------------------------------------------------------------------------------------------------------


def test_an_archive_that_expands_far_beyond_its_size_is_refused_unread(tmp_path: Path) -> None:
    """400 MB of zeros in 400 kB: refused from its list of contents alone."""
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("state.npy", "w", force_zip64=True) as file,
    ):
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (48 << 20,)})
        file.write(head.getvalue())
        for _ in range(48):  # 8 MiB of doubles each
            file.write(bytes(8 << 20))
    assert path.stat().st_size < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refuse(lambda p: read_npz(p, "truth", REMEDY), path, r"would expand to \d{3},")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_a_member_lies_about_its_array(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(10))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("z.npy", buffer.getvalue().replace(b"(10,)", b"(90,)"))
    refuse(lambda p: read_npz(p, "truth", REMEDY), tmp_path / "a.npz", "cut off, or damaged")


def test_checksums_of_archives_are_verified(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, z=np.arange(1000.0))
    damaged = bytearray(path.read_bytes())
    damaged[4000] ^= 1
    path.write_bytes(damaged)
    refuse(lambda p: read_npz(p, "truth", REMEDY), path, "CRC")


def test_a_gzip_that_expands_without_end() -> None:
    import gzip

    assert unpacked(gzip.compress(b"atoms")) == b"atoms"
    with pytest.raises(ValueError, match="would expand"):
        unpacked(gzip.compress(bytes(200 << 20)))


# ---- checkpoints ---------------------------------------------------------------------------------------------------


def test_plain_tensors_are_read_as_torch_reads_them(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4))
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.rand(3, 5)).sum().backward()
    optimiser.step()
    base = torch.arange(24.0).reshape(4, 6)
    content = {
        "model_state_dict": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "views": [base.T, base[1:3, 2:5], base[0], torch.zeros(0), torch.tensor(3)],
        "kinds": [base.to(kind) for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.bool)],
        "numbers": {"epoch": 3, "rate": 0.5, "text": "é", "none": None, "yes": True, "pair": (1, 2.0)},
    }
    torch.save(content, tmp_path / "a.pkl")
    ours, theirs = load_checkpoint(tmp_path / "a.pkl"), torch.load(tmp_path / "a.pkl", weights_only=True)

    def same(a: object, b: object) -> bool:
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            return a.dtype == b.dtype and torch.equal(a, b)
        if isinstance(a, dict) and isinstance(b, dict):
            return list(a) == list(b) and all(same(a[name], b[name]) for name in a)
        if isinstance(a, list | tuple) and isinstance(b, list | tuple):
            return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
        return a == b

    assert same(ours, theirs)


def test_a_flipped_bit_in_a_checkpoint_is_found(tmp_path: Path) -> None:
    """Wherever in the tensors or the pickle it is; torch.load takes most of these."""
    path = tmp_path / "a.pkl"
    save_checkpoint({"model_state_dict": {"w": torch.rand(400)}}, path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        spans = []
        for info in archive.infolist():
            if info.filename.endswith(("data.pkl", "data/0")):
                begin = info.header_offset + 30 + int.from_bytes(whole[info.header_offset + 26 :][:2], "little")
                begin += int.from_bytes(whole[info.header_offset + 28 :][:2], "little")
                spans.append((begin, begin + info.file_size))
    generator = np.random.default_rng(0)
    for begin, end in spans:
        for place in generator.integers(begin, end, 20):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(generator.integers(8))
            path.write_bytes(damaged)
            refuse(load_checkpoint, path, "was not read")


def test_a_tensor_lies_within_its_storage(tmp_path: Path) -> None:
    """Sizes in the pickle that reach beyond the bytes there are: torch makes room for them."""
    path, made = tmp_path / "a.pkl", tmp_path / "b.pkl"
    save_checkpoint({"model_state_dict": torch.rand(200)}, path)
    for old in (b"K\xc8", b"K\xc8\x85"):  # the storage's length and the tensor's, 200
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(made, "w") as changed:
            for info in archive.infolist():
                data = archive.read(info)
                if info.filename.endswith("data.pkl"):
                    assert old in data
                    data = data.replace(old, old.replace(b"K\xc8", b"J\xff\xff\xff\x7f"), 1)
                changed.writestr(info.filename, data)
        refuse(load_checkpoint, made, "damaged|larger than its storage")


def test_a_small_pickle_takes_little_memory(tmp_path: Path) -> None:
    """A memo at place 2^31 makes Python's unpickler in C take 16 GiB; doubling containers never end when walked."""
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x04}r\xff\xff\xff\x7f.")
    refuse(load_latents, path, "z_mu|was not read")
    doubled = b"\x80\x04]\x94" + b"".join(b"(h" + bytes([i]) + b"h" + bytes([i]) + b"l\x94" for i in range(60)) + b"."
    path.write_bytes(doubled)
    refuse(load_latents, path, "was not read")


def test_latents_must_be_numbers_of_the_same_particles(tmp_path: Path) -> None:
    z = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    cases = {
        "z_logvar of the shape": {"z_mu": z, "z_logvar": z[:5]},
        "finite z_mu": {"z_mu": np.where(z > 1e9, z, np.nan)},
        "z_mu of shape": {"z_mu": z[0]},
        "ind for each": {"z_mu": z, "ind": np.arange(3)},
        "was not read": {"z_mu": z.astype(object)},
    }
    for message, content in cases.items():
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
        refuse_any(tmp_path / "a.pkl", message)


def refuse_any(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_latents(path)


# ---- others --------------------------------------------------------------------------------------------------------


def test_a_ply_holds_what_its_header_promises(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "a.ply"
    whole = (data / "published_model" / "point_cloud.ply").read_bytes()
    count = next(line for line in whole.split(b"\n") if line.startswith(b"element vertex"))
    for claim in (b"element vertex 2000000000", b"comment end_header\nelement vertex 2000000000"):
        path.write_bytes(whole.replace(count, claim))
        refuse(lambda p: read_points(p, "gaussians", ("x",), REMEDY), path, "promises|was not read")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": 1' + "0" * 5000 + "}", "\ud800", "", "nonsense"])
def test_json_of_any_kind_gives_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    refuse(lambda p: read_json(p, "cfg", REMEDY), path, "readable JSON file")


def test_a_state_that_holds_nan_is_not_written(tmp_path: Path) -> None:
    from gaussianem_core.errors import ResultError

    path = tmp_path / "a.pt"
    save_checkpoint({"epoch": 1, "w": torch.ones(3)}, path)
    with pytest.raises(ResultError, match=r"optimiser\.state\.0 holds NaN"):
        save_checkpoint({"epoch": 2, "optimiser": {"state": {0: torch.tensor([1.0, float("nan")])}}}, path)
    assert load_tensors(path, "--resume", ("epoch",), REMEDY)["epoch"] == 1
