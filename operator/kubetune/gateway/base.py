"""What the base model's files say about its modules: their names and the shapes of their weights."""

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from kubetune.gateway.tensors import Shape, read_header

# Parts of a model with a language model inside; checkpoints, transformers and engines nest them differently.
_NESTING = frozenset({"model", "language_model", "text_model", "transformer", "llm", "backbone", "thinker"})
# Models whose experts' matrices the engine takes stacked, as peft writes them (vLLM's is_3d_moe_weight).
_TAKES_STACKED_EXPERTS = ("gpt_oss", "interns1_pro", "qwen3_5_moe", "qwen3_omni_moe", "qwen3_vl_moe")
_NESTED_CONFIGS = frozenset({"text_config", "llm_config", "language_config", "thinker_config"})


@dataclass(frozen=True)
class BaseModules:
    """The modules of a base model, by the names in its files."""

    shapes: dict[str, Shape]
    """Shape (out, in) of the floating-point matrix of a module; packed integers have another meaning."""
    paths: frozenset[str]
    """Every module and everything that contains one. Empty where the base has no safetensors files."""
    nested: bool
    """Whether it is a language model inside a larger one."""
    tied: bool
    """Whether lm_head is the embedding, and has no weights of its own."""
    model_type: str = ""
    """As its config calls it; empty where it does not say."""

    @property
    def takes_stacked_experts(self) -> bool:
        """Whether the engine takes an adapter's matrices of all experts in one, as peft writes them."""
        return self.model_type.startswith(_TAKES_STACKED_EXPERTS)

    @staticmethod
    @lru_cache(maxsize=1)
    def of(folder: Path) -> "BaseModules":
        """The modules of a base model. It never changes in the life of a pod.

        Raises:
            HeaderError: a weight file is malformed.
        """
        tensors = {
            name: tensor
            for file in sorted(folder.glob("*.safetensors"))
            if not file.name.startswith("adapter_")
            for name, tensor in read_header(file).items()
        }
        shapes: dict[str, Shape] = {
            name.removesuffix(".weight"): tensor.shape
            for name, tensor in tensors.items()
            if name.endswith(".weight") and len(tensor.shape) == 2 and tensor.dtype.startswith(("F", "BF"))
        }
        paths = {
            ".".join(parts[:n])
            for name in tensors
            for parts in [name.split(".")]
            for n in range(1, len(parts))
        }
        config = _config(folder)
        return BaseModules(
            shapes,
            frozenset(paths),
            nested=bool(_NESTED_CONFIGS & config.keys()),
            tied=config.get("tie_word_embeddings") is not False and "lm_head" not in paths,
            model_type=str(config.get("model_type") or ""),
        )

    def named(self, module: str) -> str | None:
        """The base's name for a module that an adapter names; None if it has none.

        An adapter's names are those of transformers' class. Files may lack the class's own prefix
        (`h.0.attn` for `transformer.h.0.attn`), and nest a language model in another way.
        """
        if module in self.paths:
            return module
        if module == "lm_head" and (self.tied or "embed_out" in self.paths):
            return next(
                (p for p in self.paths if p.endswith(("embed_out", "embed_tokens", "wte", "embed_in"))),
                module,
            )
        first, _, rest = module.partition(".")
        if first not in self.paths and rest in self.paths and rest.partition(".")[0] not in _NESTING:
            return rest
        if self.nested:
            return self._by_core.get(_core(module))
        return None

    @cached_property
    def leaves(self) -> frozenset[str]:
        """Last parts of all names. The engine looks at these alone, and refuses others by itself."""
        return frozenset(path.rpartition(".")[2] for path in self.paths)

    @cached_property
    def _by_core(self) -> dict[str, str]:
        return {_core(path): path for path in sorted(self.paths)}


def _core(path: str) -> str:
    """A name without what it is nested in."""
    parts = path.split(".")
    while len(parts) > 1 and parts[0] in _NESTING:
        parts = parts[1:]
    return ".".join(parts)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}  # the engine says what is wrong with it
    return config if isinstance(config, dict) else {}
