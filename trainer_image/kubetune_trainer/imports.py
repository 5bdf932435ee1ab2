"""The libraries that a run computes with, without what they would import in vain.

transformers imports every optional package that it finds installed, and bitsandbytes compiles its fallbacks
for CPUs as soon as it is imported. No run uses either, and each attempt would wait for them, for about a
third of the time until it begins.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

UNUSED = ("pandas", "scipy", "sklearn", "torchaudio", "torchvision")
"""Packages that are installed for lm-eval and vLLM. lm-eval imports its own when it measures."""


@contextmanager
def lean() -> Iterator[None]:
    """While it lasts, libraries do not find what is unused."""
    modules = cast(dict[str, Any], sys.modules)
    hidden = [name for name in UNUSED if name not in modules]
    modules.update(dict.fromkeys(hidden))  # Python's own way to say that there is no such module
    try:
        _import_bitsandbytes()
        yield
    finally:
        for name in hidden:
            del modules[name]


def _import_bitsandbytes() -> None:
    import torch

    compiles = torch.compile
    vars(torch)["compile"] = _uncompiled
    try:
        import bitsandbytes  # noqa: F401
    finally:
        vars(torch)["compile"] = compiles


def _uncompiled(function: Any = None, **_: Any) -> Any:
    return function
