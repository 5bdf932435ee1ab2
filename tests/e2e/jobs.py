"""Manifests of jobs small enough to train in seconds."""

import json
import string
from pydoc_data.topics import topics
from typing import Any

API_VERSION = "kubetune.io/v1alpha1"
RESOURCES = {"requests": {"cpu": "200m", "memory": "512Mi"}}


def claim(name: str) -> dict[str, Any]:
    """A PersistentVolumeClaim."""
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "5Gi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def examples() -> dict[str, Any]:
    """A ConfigMap with a corpus of reference text and pairs (upper case of a letter)."""
    corpus = [{"text": text[:2000]} for text in topics.values()]
    pairs = [
        {"instruction": f"Upper case of {letter}?", "output": letter.upper() * n}
        for letter in string.ascii_lowercase
        for n in (1, 2, 3)
    ]
    data = {"corpus.jsonl": lines(corpus), "pairs.jsonl": lines(pairs)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "examples"}, "data": data}


def lines(records: list[dict[str, str]]) -> str:
    """JSON Lines."""
    return "".join(json.dumps(record) + "\n" for record in records)


def pretrain(
    name: str, *, steps: int = 20, uri: str = "configmap://examples/corpus.jsonl", **spec: Any
) -> dict[str, Any]:
    """A PretrainJob of a model that vLLM can serve."""
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    body = {
        "model": {"config": config},
        "tokenizer": {"train": {"vocabSize": 600}},
        "data": {"mixture": [{"name": "topics", "uri": uri}], "sequenceLength": 64},
        "training": {"maxSteps": steps, "globalBatchSize": 8, "learningRate": 3e-3},
        "output": {"storageUri": "pvc://models"},
        "compute": {"resourcesPerNode": RESOURCES},
    }
    return {"apiVersion": API_VERSION, "kind": "PretrainJob", "metadata": {"name": name}, "spec": body | spec}


def finetune(
    name: str, base: str, *, steps: int = 20, uri: str = "configmap://examples/pairs.jsonl", **spec: Any
) -> dict[str, Any]:
    """A FineTuneJob that trains a LoRA adapter."""
    body = {
        "baseModel": {"jobRef": {"kind": "PretrainJob", "name": base}},
        "data": {"sources": [{"name": "pairs", "uri": uri, "format": "alpaca"}], "sequenceLength": 64},
        "lora": {"rank": 8},
        "evaluation": {"samplePrompts": ["Upper case of k?"], "maxNewTokens": 8},
        "training": {"maxSteps": steps, "globalBatchSize": 8, "learningRate": 1e-2},
        "output": {"storageUri": "pvc://models"},
        "compute": {"resourcesPerNode": RESOURCES},
    }
    return {"apiVersion": API_VERSION, "kind": "FineTuneJob", "metadata": {"name": name}, "spec": body | spec}


def adapter_set(name: str, base: str, adapters: list[dict[str, Any]], **spec: Any) -> dict[str, Any]:
    """An AdapterSet of one replica."""
    body = {
        "baseModel": {"name": base, "jobRef": {"kind": "PretrainJob", "name": base}},
        "engine": {"resources": {"requests": {"cpu": "200m", "memory": "2Gi"}}},
        "adapters": adapters,
    }
    return {"apiVersion": API_VERSION, "kind": "AdapterSet", "metadata": {"name": name}, "spec": body | spec}
