"""What safetensors files hold, read without a tensor library.

Format: 8 bytes little-endian length, then so much JSON: {name: {dtype, shape, data_offsets}, ...}, then the
values, without gaps. https://huggingface.co/docs/safetensors
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Shape = tuple[int, ...]
_MAX_HEADER = 100_000_000  # the reference implementation's limit, in bytes
_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2,
    "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
MATRIX_DTYPES = ("BF16", "F16", "F32", "F64")
_PIECE = 1 << 20


class HeaderError(ValueError):
    """Not a whole safetensors file."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file."""

    dtype: str
    """As the format spells it: F32, BF16, ..."""
    shape: Shape
    """Sizes of its dimensions."""
    start: int
    """Its first byte in the file."""
    end: int
    """The byte after its last."""


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        HeaderError: it is malformed, or shorter or longer than its header says.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise HeaderError(f"{file.name} is cut short: write it again")
        text = stream.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_once)
        found = {k: _tensor(v, 8 + length) for k, v in header.items() if k != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise HeaderError(f"{file.name} is not a safetensors file: its header is malformed") from error
    end = 8 + length
    for name, tensor in sorted(found.items(), key=lambda item: (item[1].start, item[1].end)):
        # Formats of less than a byte, and those to come, are judged by the file's length alone.
        expected = math.prod(tensor.shape) * _BYTES.get(tensor.dtype, 0)
        if tensor.start != end or (tensor.dtype in _BYTES and tensor.end - tensor.start != expected):
            raise HeaderError(
                f"{file.name} is damaged: {name[:200]} does not begin where the tensor before it ends, "
                "or has another size than its shape. Write it again"
            )
        end = tensor.end
    if end != size:
        raise HeaderError(f"{file.name} is damaged: it has {size} bytes, not {end}. Write it again")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _tensor(entry: Any, offset: int) -> Tensor:
    dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = [*shape, start, end]
    if (
        not isinstance(dtype, str)
        or not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers)
        or end < start
    ):
        raise ValueError("not a tensor")
    return Tensor(dtype, tuple(shape), offset + start, offset + end)


@dataclass(frozen=True)
class Values:
    """Facts about a tensor's numbers."""

    zero: bool
    """Whether all are zero."""
    finite: bool
    """Whether all are finite: no NaN, no infinity."""


def read_values(file: Path, tensor: Tensor) -> Values:
    """Look at every number of a tensor, whose dtype is one of MATRIX_DTYPES."""
    zero = finite = True
    for piece in _pieces(file, tensor):
        zero = zero and not piece.strip(b"\0\x80")  # -0.0 is 00 .. 80
        finite = finite and _finite(piece, tensor.dtype)
    return Values(zero, finite)


def _pieces(file: Path, tensor: Tensor) -> Iterator[bytes]:
    with file.open("rb") as stream:
        stream.seek(tensor.start)
        for at in range(tensor.start, tensor.end, _PIECE):
            yield stream.read(min(_PIECE, tensor.end - at))


# By dtype, how a number's exponent is all ones: values of its highest byte, and the least of the next.
_ALL_ONES = {
    "F16": (re.compile(rb"[\x7c-\x7f\xfc-\xff]"), 0),
    "BF16": (re.compile(rb"[\x7f\xff]"), 0x80),
    "F32": (re.compile(rb"[\x7f\xff]"), 0x80),
    "F64": (re.compile(rb"[\x7f\xff]"), 0xF0),
}


def _finite(piece: bytes, dtype: str) -> bool:
    highest, next_least = _ALL_ONES[dtype]
    width = _BYTES[dtype]
    high, low = piece[width - 1 :: width], piece[width - 2 :: width]
    return not any(low[match.start()] >= next_least for match in highest.finditer(high))
