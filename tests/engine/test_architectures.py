"""Of every class of model that the real vLLM knows, the check of the base tells whether it generates text."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest

from kubetune.gateway.language_model import another_model

GENERATE = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS")
OTHERS = (
    "_EMBEDDING_MODELS", "_LATE_INTERACTION_MODELS", "_REWARD_MODELS", "_TOKEN_CLASSIFICATION_MODELS",
    "_SEQUENCE_CLASSIFICATION_MODELS",
)  # fmt: skip
UNNAMED = {"ClefOmniForJointSchema", "ColQwen3", "ColQwen3_5", "HF_ColBERT", "Terratorch"}
"""Their names tell nothing: the engine judges."""


@pytest.fixture(scope="module")
def registry() -> dict[str, set[str]]:
    """Names of classes by the groups of vLLM's registry, read without the minutes that its import takes."""
    vllm = importlib.util.find_spec("vllm")
    assert vllm is not None
    assert vllm.origin is not None
    source = Path(vllm.origin).parent / "model_executor" / "models" / "registry.py"
    return {
        node.targets[0].id: {key.value for key in node.value.keys if isinstance(key, ast.Constant)}  # type: ignore[misc]
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Dict)
    }


def generates(folder: Path, name: str) -> bool:
    (folder / "config.json").write_text(json.dumps({"architectures": [name]}))
    return another_model(folder) is None


def test_no_class_that_generates_is_refused(registry: dict[str, set[str]], tmp_path: Path):
    classes = set().union(*(registry[group] for group in GENERATE))
    assert len(classes) > 200
    assert {name for name in classes if not generates(tmp_path, name)} == set()


def test_classes_that_do_not_generate_are(registry: dict[str, set[str]], tmp_path: Path):
    both = set().union(*(registry[group] for group in GENERATE))
    classes = set().union(*(registry[group] for group in OTHERS)) - both
    assert len(classes) > 40
    assert {name for name in classes if generates(tmp_path, name)} == UNNAMED
