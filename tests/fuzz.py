"""Changed files against every reader of the program: ``python tests/fuzz.py --inputs 60000 --seed 0``.

An input is a small valid file that was changed at random: bits flipped, cut, spliced with another, numbers replaced
by ones at the edges of what numbers can be, headers edited, members of archives changed and packed again with a right
checksum. It passes when its reader returns or raises InputError, within SECONDS of processor time and BYTES of
memory. Input number i of a target is the same in every run with one seed; inputs that failed are kept in --keep.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzz_targets
from fuzz_targets import Target

from gaussianem_core.errors import InputError

SECONDS = 5.0  # of processor time, for files of some kilobytes
BYTES = 96 << 20  # that a reader may take for such a file
ADDRESSES = 6 << 30  # of the whole process: what asks for more fails instead of filling the machine


# ---- changes -------------------------------------------------------------------------------------------------------

NUMBERS = """0 -0 1 -1 2 7 255 256 65535 65536 2147483647 2147483648 -2147483648 4294967296 9223372036854775807
9223372036854775808 1e9 1e18 1e30 -1e30 1e308 1e309 -1e309 1e-320 nan -nan inf -inf NaN Infinity -Infinity 0.1 1e999999
0x10 1_0 1,5 +3 ٣ 99999999999999999999999999 00000000 1e 3.4e38 -3.5e38 null true""".split()
TEXTS = [
    b"",
    b"\0",
    b"\x1b]0;title\x07",
    b"\xff\xfe",
    b"\xe2\x80\xae",
    b'"',
    b"'",
    b'"a' * 300,
    b"#",
    b"\r",
    b"\n\n",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"9" * 5000,
    b"../../../../etc/passwd",
    b"$(id)",
    b"data_",
    b"loop_",
    b"_",
    b"None",
    b"a" * 70000,
]
JSON_VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    0.5,
    "",
    "\0",
    "\x1b[2J",
    "x" * 5000,
    "../../..",
    [],
    {},
    [[[[[[]]]]]],
    [None] * 5,
    {"a": {"b": []}},
]


def change(data: bytes, others: list[bytes], kind: str, chance: random.Random) -> bytes:
    """``data`` changed in one to four ways."""
    ways = {"json": [change_json] * 3 + BYTEWISE, "zip": [change_member] * 4 + BYTEWISE, "text": TEXTUAL}
    for _ in range(chance.choice((1, 1, 1, 2, 3, 4))):
        data = chance.choice(ways.get(kind, BYTEWISE))(data, others, chance)
    return data


def flip(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Some bits the other way."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[place(len(changed), chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """The beginning alone, or without a piece."""
    if chance.random() < 0.5:
        return data[: chance.randrange(len(data) + 1)]
    begin = place(len(data), chance)
    return data[:begin] + data[begin + chance.choice((1, 2, 4, 8, 100, 1000)) :]


def splice(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """A piece of this or another file, over what is there or between."""
    source = chance.choice([*others, data])
    begin = place(len(source), chance)
    piece = source[begin : begin + chance.choice((1, 4, 16, 256, 4096))]
    at = place(len(data), chance)
    return data[:at] + piece + data[at + chance.choice((0, len(piece))) :]


def insert(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Bytes that parsers stumble over."""
    at = place(len(data), chance)
    return data[:at] + chance.choice(TEXTS) + data[at:]


def edit_binary(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """A number in the place of four or eight bytes, most often in the header."""
    form = chance.choice("<i >i <q >q <f >f <d >d <h >h".split())
    value: Any = chance.choice((0, 1, -1, 2**31 - 1, -(2**31), 2**15, 1 << 24, 12345, 3))
    if form[1] in "fd":
        value = chance.choice((float("nan"), float("inf"), -1.0, 1e30, 1e-40, 0.0))
    elif form[1] == "h":
        value = max(-32768, min(value, 32767))
    elif form[1] == "q":
        value = chance.choice((value, 2**63 - 1, -(2**63), 1 << 40))
    packed = struct.pack(form, value)
    at = place(min(len(data), chance.choice((64, 300, 1024, len(data) + 1))), chance)
    return data[:at] + packed + data[at + len(packed) :]


def edit_number(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Another number in the place of one that is written in digits."""
    found = list(re.finditer(rb"-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?", data[: 1 << 16]))
    if not found:
        return flip(data, others, chance)
    match = chance.choice(found)
    return data[: match.start()] + chance.choice(NUMBERS).encode() + data[match.end() :]


def edit_word(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """A word twice, left out, or exchanged with another."""
    found = list(re.finditer(rb"\S+", data[: 1 << 16]))
    if len(found) < 2:
        return insert(data, others, chance)
    one, two = chance.choice(found), chance.choice(found)
    word = chance.choice((b"", two[0], one[0] + b" " + one[0], chance.choice(TEXTS)))
    return data[: one.start()] + word + data[one.end() :]


def edit_line(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Lines twice, left out, or in another place."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    line = lines.pop(chance.randrange(len(lines)))
    for _ in range(chance.choice((0, 1, 2, 50))):
        lines.insert(chance.randrange(len(lines) + 1), line)
    return b"".join(lines)


BYTEWISE = [flip, flip, cut, splice, insert, edit_binary, edit_binary, edit_number]
TEXTUAL = [flip, cut, splice, insert, edit_number, edit_number, edit_number, edit_word, edit_word, edit_line]


def change_json(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """A value somewhere inside replaced, left out or renamed; lines of JSON each on its own."""
    lines = data.decode("utf-8", "replace").splitlines() if b"}\n{" in data else [data.decode("utf-8", "replace")]
    number = chance.randrange(len(lines)) if lines else 0
    try:
        content = json.loads(lines[number])
    except (ValueError, IndexError, RecursionError):
        return flip(data, others, chance)
    places = list(inside(content))
    if not places:
        return json.dumps(chance.choice(JSON_VALUES)).encode()
    holder, key = chance.choice(places)
    way = chance.random()
    if way < 0.7:
        holder[key] = chance.choice(JSON_VALUES)
    elif way < 0.85 and isinstance(holder, dict):
        holder[chance.choice(["", "job_type", "x" * 300, "\0"])] = holder.pop(key)
    else:
        del holder[key]
    try:
        lines[number] = json.dumps(content)
    except ValueError:
        return data
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def inside(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from inside(value[key])


def change_member(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """A member of a zip archive changed, under its name or another, packed again with the right checksum."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
            packing = archive.infolist()[0].compress_type
    except (
        zipfile.BadZipFile,
        IndexError,
        ValueError,
        KeyError,
        RuntimeError,
        EOFError,
        zlib.error,
        NotImplementedError,
    ):
        return flip(data, others, chance)
    number = chance.randrange(len(members))
    name, content = members[number]
    way = chance.random()
    if way < 0.8:
        members[number] = name, chance.choice(BYTEWISE)(content, [each for _, each in members], chance)
    elif way < 0.9:
        members[number] = chance.choice(members)[0], content
    else:
        del members[number]
    packed = io.BytesIO()
    with (
        warnings.catch_warnings(),
        zipfile.ZipFile(packed, "w", chance.choice((packing, zipfile.ZIP_DEFLATED))) as archive,
    ):
        warnings.simplefilter("ignore")  # two members of one name
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


def place(length: int, chance: random.Random) -> int:
    """A place in a file, more often near its beginning, where headers are."""
    return int(max(length, 1) * chance.random() ** chance.choice((1, 3)))


# ---- one input ------------------------------------------------------------------------------------------------------


class TooSlow(BaseException):
    """The reader has used its time; no Exception, which a reader may catch."""


def _out_of_time(number: int, frame: object) -> None:
    raise TooSlow


def judge(target: Target, data: bytes, folder: Path) -> str:
    """ "" if the reader copes with ``data``, else what went wrong."""
    path = folder / target.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    before = memory_now()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            target.read(path)
    except InputError:
        pass
    except TooSlow:
        return f"more than {SECONDS:g} s"
    except Exception:
        return traceback.format_exc(limit=-4)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    taken = memory_peak() - before
    return f"{taken >> 20} MiB of memory" if taken > BYTES else ""


def memory_now() -> int:
    """Bytes in memory; the peak is counted from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status(b"VmRSS:")


def memory_peak() -> int:
    """The most bytes that were in memory since ``memory_now``."""
    return _status(b"VmHWM:")


def _status(name: bytes) -> int:
    with open("/proc/self/status", "rb") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))


@dataclass(frozen=True)
class Failure:
    """An input that was not coped with."""

    target: str
    number: int
    seed: int
    what: str
    data: bytes


def one(target: Target, seeds: list[bytes], number: int, seed: int) -> bytes:
    """Input ``number`` of a target."""
    chance = random.Random(f"{seed} {target.name} {number}")
    return change(chance.choice(seeds), seeds, target.kind, chance)


# ---- many -----------------------------------------------------------------------------------------------------------


def work(names: list[str], start: tuple[int, int], step: int, each: int, seed: int, found: Any, at: Any) -> None:
    """A process: every ``step``-th input of the targets; failures go to ``found``, the place of the work to ``at``."""
    signal.signal(signal.SIGPROF, _out_of_time)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(prefix="gaussianem-fuzz-") as folder:
        for index in range(start[0], len(names)):
            target = fuzz_targets.TARGETS[names[index]]
            seeds = target.seeds()
            for data in seeds:
                judge(target, data, Path(folder) / target.name)  # what is loaded at the first use is no reader's memory
            for number in range(start[1] if index == start[0] else start[1] % step, each, step):
                at[0], at[1] = index, number
                data = one(target, seeds, number, seed)
                if problem := judge(target, data, Path(folder) / target.name):
                    found.put(Failure(target.name, number, seed, problem, data))
            shutil.rmtree(Path(folder) / target.name, ignore_errors=True)
    found.put(None)


def run(names: list[str], inputs: int, seed: int, jobs: int) -> list[Failure]:
    """``inputs`` in all, the same number for each target, over ``jobs`` processes; the failures."""
    context = multiprocessing.get_context("spawn")
    each = -(-inputs // len(names))
    failures: list[Failure] = []
    workers = [(context.SimpleQueue(), context.Array("q", 2)) for _ in range(jobs)]

    def begin(job: int, start: tuple[int, int]) -> Any:
        process = context.Process(target=work, args=(names, start, jobs, each, seed, *workers[job]))
        process.start()
        return process

    running = {job: begin(job, (0, job)) for job in range(jobs)}
    while running:
        for job, process in list(running.items()):
            queue, at = workers[job]
            while not queue.empty():
                failure = queue.get()
                if failure is None:
                    running.pop(job).join()
                    break
                failures.append(failure)
            if job in running and not process.is_alive() and queue.empty():
                index, number = at[0], at[1]
                target = fuzz_targets.TARGETS[names[index]]
                what = f"the process ended with {process.exitcode}"
                failures.append(Failure(target.name, number, seed, what, one(target, target.seeds(), number, seed)))
                running[job] = begin(job, (index, number + jobs))
        time.sleep(0.05)
    return failures


def main(argv: list[str] | None = None) -> int:
    """Print what was found; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=60_000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--only", nargs="*", default=[], help="these targets; without it all")
    parser.add_argument("--keep", type=Path, default=None, help="directory for the inputs that failed")
    parser.add_argument("--list", action="store_true", help="list the targets and their readers")
    given = parser.parse_args(argv)
    names = given.only or list(fuzz_targets.TARGETS)
    if given.list:
        print("\n".join(f"{name:<24}{fuzz_targets.TARGETS[name].what}" for name in names))
        return 0
    began = time.monotonic()
    failures = run(names, given.inputs, given.seed, given.jobs)
    done = -(-given.inputs // len(names)) * len(names)
    seen: set[tuple[str, str]] = set()
    for failure in failures:
        if given.keep is not None:
            given.keep.mkdir(parents=True, exist_ok=True)
            (given.keep / f"{failure.target}-{failure.number}").write_bytes(failure.data)
        kind = (failure.target, re.sub(r"'.*|\d+", "", failure.what.strip().splitlines()[-1])[:60])
        if kind not in seen:
            print(f"--- {failure.target}, input {failure.number}, seed {failure.seed}\n{failure.what}")
        seen.add(kind)
    print(
        f"{done:,} inputs for {len(names)} readers, seed {given.seed}: {len(failures)} failed, "
        f"in {time.monotonic() - began:.0f} s"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
