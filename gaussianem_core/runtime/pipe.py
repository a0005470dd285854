"""Messages over a pipe: a JSON header and raw arrays behind it. Nothing that is read can run code. No torch.

One message is 4 bytes (big endian) with the length of the header, the header as JSON, then the bytes of the arrays in
the order of ``header["arrays"]``, a list of [name, dtype, shape].
"""

from __future__ import annotations

import json
from typing import Any, BinaryIO

import numpy as np

LARGEST_HEADER = 1 << 24
LARGEST_ARRAY = 1 << 36
KINDS = {"<f4", "<f8", "<i4", "<i8", "<u2", "|u1", "|b1", "<f2"}


class PipeClosed(EOFError):
    """The other side has closed the pipe, or sent something that is no message."""


def write_message(stream: BinaryIO, header: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> None:
    """Send ``header`` and ``arrays`` and flush. Raises ValueError for a dtype that is not of KINDS, OSError."""
    listed, blocks = [], []
    for name, array in (arrays or {}).items():
        block = np.ascontiguousarray(array)
        block = block.astype(block.dtype.newbyteorder("<"), copy=False)
        if block.dtype.str not in KINDS:
            raise ValueError(f"array {name}: must hold plain numbers (got {block.dtype})")
        listed.append([name, block.dtype.str, list(block.shape)])
        blocks.append(block)
    text = json.dumps({**header, "arrays": listed}).encode()
    stream.write(len(text).to_bytes(4, "big") + text)
    for block in blocks:
        stream.write(block.reshape(-1).view(np.uint8).data)
    stream.flush()


def read_message(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The next message, header and arrays by name. Raises PipeClosed at the end of the stream or for other bytes."""
    length = int.from_bytes(_exactly(stream, 4), "big")
    if not 0 < length <= LARGEST_HEADER:
        raise PipeClosed("no message header")
    try:
        header = json.loads(bytes(_exactly(stream, length)))
        listed = header.pop("arrays")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise PipeClosed("damaged message header") from error
    arrays = {}
    for name, kind, shape in listed:
        count = int(np.prod(shape, dtype=np.int64))
        if kind not in KINDS or count < 0 or count > LARGEST_ARRAY:
            raise PipeClosed(f"array {name} of kind {kind}")
        data = np.empty(count, np.dtype(kind))
        if count:
            _fill(stream, data.view(np.uint8).data)
        arrays[name] = data.reshape(shape)
    return header, arrays


def _exactly(stream: BinaryIO, count: int) -> bytearray:
    data = bytearray(count)
    _fill(stream, memoryview(data))
    return data


def _fill(stream: BinaryIO, view: memoryview) -> None:
    done = 0
    while done < len(view):
        got = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not got:
            raise PipeClosed("the other side has closed the pipe")
        done += got
