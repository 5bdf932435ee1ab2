"""What is measured: shapes of models and batches, and the arithmetic of their cost. Nothing is imported here
that a bare Python lacks."""

from dataclasses import dataclass, replace
from typing import Any

CLM_1B = "clm-1b"
LORA_8B = "lora-8b"
QLORA_8B = "qlora-8b"

LLAMA_1B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
    "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}, "tie_word_embeddings": True,
}  # fmt: skip
"""The shape of Llama-3.2-1B: 1.24 billion parameters."""
LLAMA_8B = LLAMA_1B | {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "head_dim": 128,
    "tie_word_embeddings": False,
}  # fmt: skip
"""The shape of Llama-3.1-8B: 8.03 billion parameters."""
LLAMA_TINY = LLAMA_1B | {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 512, "max_position_embeddings": 128,
}  # fmt: skip

DENSE_BF16 = (
    ("B200", 2250.0), ("H200 NVL", 835.0), ("H200", 989.4), ("H100 NVL", 835.0), ("H100 PCIe", 756.0),
    ("H100", 989.4), ("A100", 312.0), ("L40S", 362.0), ("L40", 181.0), ("L4", 121.0),
)  # fmt: skip
"""TFLOP/s of dense bf16 matrix products with fp32 sums, by a part of the GPU's name, longer ones first. From
NVIDIA's data sheets, some of which give the rate for sparse matrices, twice as much. No program attains them,
since the clocks that they assume are not kept up."""


@dataclass(frozen=True)
class Workload:
    """One training run that both trainers carry out."""

    name: str
    what: str
    """For the table."""
    config: dict[str, Any]
    method: str
    length: int = 2048
    """Tokens per sequence."""
    rows: int = 4
    """Sequences per forward pass."""
    passes: int = 1
    """Forward passes per optimizer step."""
    warmup: int = 3
    """Steps that do not count."""
    steps: int = 12
    """Steps that do."""
    rank: int = 16

    @property
    def tokens(self) -> int:
        """Per optimizer step."""
        return self.length * self.rows * self.passes

    @property
    def weights(self) -> int:
        """Weights of all matrices that a token is multiplied with: all but the embeddings, with the head."""
        c = self.config
        return c["num_hidden_layers"] * sum(a * b for a, b in _layer(c)) + c["hidden_size"] * c["vocab_size"]

    @property
    def adapter(self) -> int:
        """Weights of a LoRA adapter on all linear layers but the head."""
        return self.config["num_hidden_layers"] * sum(self.rank * (a + b) for a, b in _layer(self.config))

    @property
    def flops(self) -> float:
        """Per token, forward and backward, nothing computed twice.

        6 N for trained weights, and 4 N for frozen ones, since their own gradient (2 N) is not needed. For
        attention 12 L h s, as in appendix B of "PaLM" (Chowdhery et al. 2022): what a causal mask hides
        counts, too.
        """
        c = self.config
        attention = 12 * c["num_hidden_layers"] * c["num_attention_heads"] * c["head_dim"] * self.length
        if self.method == "full":
            return 6 * self.weights + attention
        return 4 * self.weights + 6 * self.adapter + attention


def _layer(c: dict[str, Any]) -> list[tuple[int, int]]:
    """Shapes of a layer's seven matrices."""
    width, inner = c["hidden_size"], c["intermediate_size"]
    queries, keys = (c[n] * c["head_dim"] for n in ("num_attention_heads", "num_key_value_heads"))
    return [(width, queries), (width, keys), (width, keys), (queries, width), *[(width, inner)] * 3]


WORKLOADS = (
    Workload(CLM_1B, "CLM pretraining, Llama-3.2-1B's shape, every weight", LLAMA_1B, "full"),
    Workload(LORA_8B, "LoRA rank 16, Llama-3.1-8B's shape", LLAMA_8B, "lora", rows=2, steps=8),
    Workload(QLORA_8B, "QLoRA rank 16, Llama-3.1-8B's shape", LLAMA_8B, "qlora", rows=2, steps=8),
)


def tiny(workload: Workload) -> Workload:
    """The same with a model that a CPU trains in no time."""
    shape = {"config": LLAMA_TINY | {"tie_word_embeddings": workload.config["tie_word_embeddings"]}}
    return replace(workload, length=64, rows=2, passes=2, warmup=1, steps=3, **shape)


def find(name: str, *, small: bool) -> Workload:
    """A workload by name."""
    [found] = [w for w in WORKLOADS if w.name == name]
    return tiny(found) if small else found


def peak(gpu: str) -> float | None:
    """TFLOP/s of a GPU by its name; None where it is not in the table."""
    return next((rate for part, rate in DENSE_BF16 if part.lower() in gpu.lower()), None)
