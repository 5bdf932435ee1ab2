"""Checks the files of a model's folder before a library loads them: transformers follows an index wherever it
points, takes an adapter that lies beside the weights, and builds as many layers as it is told."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import safe_open

from kubetune_trainer.errors import InvalidSpec
from kubetune_trainer.reading import cause, of_the_file, reading

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LARGEST_JSON = 64 << 20
MOST_LAYERS = 10_000
"""Most layers or experts. More are a mistake, and all become Python objects before any weight is read."""
_COUNTS = re.compile(r"(num|n)_(\w+_)?(layers?|experts?)|(encoder|decoder)_layers")
ATTENTION = (None, "eager", "sdpa")
"""Values that config.json may have. Others need packages that are not here, or compile for minutes."""


def json_object(path: Path, what: str) -> dict[str, Any]:
    """A JSON file that holds one object.

    Args:
        path: the file.
        what: name of what it belongs to, in messages.

    Raises:
        InvalidSpec: it holds something else.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"it is larger than {LARGEST_JSON >> 20} MiB")
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, not an object")
    except Exception as error:
        if not of_the_file(error):
            raise
        raise InvalidSpec(f"{what}: {path.name} is not a JSON object ({cause(error)}): restore it") from error
    return found


def check_folder(folder: Path, what: str) -> None:
    """Check that a folder's files can be given to transformers.

    Args:
        folder: of a whole model.
        what: name of the model in messages.

    Raises:
        InvalidSpec: they cannot.
    """
    if (folder / ADAPTER).exists():
        raise InvalidSpec(
            f"the {what} cannot be loaded: {ADAPTER} lies in its folder, so it is an adapter: name it as "
            "`adapter` with the base that it belongs to, or remove the file"
        )
    for index in folder.rglob("*.safetensors.index*.json"):
        _shards(index, folder, what)
    failed = f"the {what} cannot be loaded"
    if (folder / CONFIG).exists():
        check_config(json_object(folder / CONFIG, failed), f"{failed}: {CONFIG}")
    if (folder / "generation_config.json").exists():
        json_object(folder / "generation_config.json", failed)


def check_config(config: Mapping[str, Any], what: str) -> None:
    """Refuse values, at any depth of a config, of which no model can be made, or not in time.

    Raises:
        InvalidSpec: there is one.
    """
    for name, value in _fields(config):
        if _COUNTS.fullmatch(name) and type(value) is int and value > MOST_LAYERS:
            raise InvalidSpec(f"{what}: {name} is {value}, and at most {MOST_LAYERS} are possible: lower it")
        if (
            ("dropout" in name or name.endswith("pdrop"))
            and type(value) in (int, float)
            and not 0 <= value <= 1
        ):
            raise InvalidSpec(
                f"{what}: {name} is {value}, which is not a fraction: set it to a number from 0 to 1"
            )
        if name in ("attn_implementation", "_attn_implementation") and value not in ATTENTION:
            raise InvalidSpec(f"{what}: {name} {value!r} is not available here: remove the field")


def _fields(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    waiting: list[Any] = [config]
    while waiting:
        for name, value in waiting.pop().items():
            yield name, value
            if isinstance(value, dict):
                waiting.append(value)


def _shards(index: Path, folder: Path, what: str) -> list[Path]:
    """The files that an index names.

    Raises:
        InvalidSpec: it is malformed, or names anything but safetensors files in the folder.
    """
    failed = f"the {what} cannot be loaded"
    names = json_object(index, failed).get("weight_map")
    if not names or not isinstance(names, dict):
        raise InvalidSpec(f"{failed}: {index.name} has no weight_map: restore it")
    found = {}
    for name in names.values():
        if isinstance(name, str) and name in found:
            continue
        plain = isinstance(name, str) and name.endswith(".safetensors") and "\0" not in name
        path = PurePosixPath(name if plain else "/")
        if path.is_absolute() or ".." in path.parts:
            raise InvalidSpec(
                f"{failed}: {index.name} names {name!r}, which is not a safetensors file in the model's "
                "folder: restore the file or the index"
            )
        found[name] = index.parent / path
        inside = found[name].resolve().is_relative_to(folder.resolve())
        if not inside or not found[name].is_file():
            raise InvalidSpec(
                f"{failed}: {name}, which {index.name} names, is not a regular file: restore it"
            )
    return [*found.values()]


def weight_files(folder: Path, what: str) -> list[Path]:
    """The files whose weights transformers loads.

    Raises:
        InvalidSpec: there are none.
    """
    named = json_object(folder / CONFIG, f"the {what} cannot be loaded").get("transformers_weights")
    for name in [named] if isinstance(named, str) else [SINGLE, INDEX]:
        if (folder / name).is_file():
            return _shards(folder / name, folder, what) if name.endswith(".json") else [folder / name]
    raise InvalidSpec(f"the {what} has neither {SINGLE} nor {INDEX}: put one there")


def tensors(folder: Path, what: str) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and shape of each tensor of a model's files.

    Raises:
        InvalidSpec: they cannot be read.
    """
    for path in weight_files(folder, what):
        with reading(f"{path.name} of the {what}", "restore it"), safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                part = file.get_slice(name)
                yield name, part.get_dtype(), tuple(part.get_shape())
