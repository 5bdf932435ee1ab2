"""Shapes of the tensors in safetensors files, read from their headers; no tensor library is needed.

Format: 8 bytes little-endian length, then so much JSON: {name: {dtype, shape, data_offsets}, ...}.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

Shape = tuple[int, ...]
_MAX_HEADER = 100_000_000  # the reference implementation's limit, in bytes
_BLOCK = re.compile(r"^(.*?\.\d+)\.")
_MATRIX = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$")


class HeaderError(ValueError):
    """Not a safetensors file."""


def tensor_shapes(file: Path) -> dict[str, Shape]:
    """Name and shape of each floating-point tensor; packed integers have shapes of another meaning.

    Raises:
        HeaderError: the file is malformed.
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER, file.stat().st_size):
            raise HeaderError(f"{file.name} is not a safetensors file")
        try:
            header = json.loads(stream.read(length))
            return {
                name: tuple(entry["shape"])
                for name, entry in header.items()
                if name != "__metadata__" and entry["dtype"].startswith(("F", "BF"))
            }
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise HeaderError(f"{file.name} is not a safetensors file") from error


@dataclass(frozen=True)
class BaseShapes:
    """Shapes of a base model's weights."""

    tensors: dict[str, Shape]
    """Shape by name; empty when the base has no safetensors files."""

    @staticmethod
    @lru_cache(maxsize=1)
    def of(folder: Path) -> "BaseShapes":
        """The shapes in all safetensors files of a folder. A base never changes in the life of a pod."""
        return BaseShapes(
            {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in tensor_shapes(file).items()}
        )

    def misfit(self, adapter: dict[str, Shape]) -> str | None:
        """Why an adapter's matrices do not fit, or None.

        A is (rank, in), B is (out, rank), a layer's weight (out, in). A missing block (`model.layers.7`)
        counts only if others are found: a base whose files use other names cannot be judged by names.
        """
        blocks = {m[1] for name in self.tensors if (m := _BLOCK.match(name))}
        missing = None
        found = False
        for name, shape in adapter.items():
            matrix = _MATRIX.match(name)
            if not matrix or len(shape) != 2:
                continue
            block = _BLOCK.match(matrix["module"] + ".")
            if block and block[1] in blocks:
                found = True
            elif block:
                missing = missing or block[1]
            weight = self.tensors.get(matrix["module"] + ".weight")
            if weight is None or len(weight) != 2:
                continue
            size, expected = (shape[1], weight[1]) if matrix["side"] == "A" else (shape[0], weight[0])
            if size != expected:
                return (
                    f"{name} is made for {size} features where the base's {matrix['module']} has {expected}"
                )
        return f"the base has no {missing}" if missing and found else None
