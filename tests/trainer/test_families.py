"""Architectures of transformers, tiny and with random weights, by every method: the table of docs/models.md.

`--families=all` tries every one and takes some minutes; with `--update-golden` it writes the table.
"""

import re
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from kubetune_trainer.data.tokenizer_training import train
from kubetune_trainer.model.heads import CAUSAL_LM, MASKED_LM
from tests.fixtures.family_row import METHODS, Row, tried
from tests.fixtures.golden import Golden
from tests.fixtures.runs import sentences

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
HEADS = {"causal": CAUSAL_LM, "masked": MASKED_LM}
SOME = [
    ("llama", "causal"), ("gpt2", "causal"), ("gemma2", "causal"), ("bloom", "causal"), ("mamba", "causal"),
    ("gpt_oss", "causal"), ("deepseek_v3", "causal"), ("bert", "causal"), ("cpmant", "causal"),
    ("fnet", "masked"), ("reformer", "masked"),
]  # fmt: skip
LONGEST = 150


def line(row: Row) -> str:
    """A row of the table."""
    why = row.why or "; ".join(
        f"{n}: {text}" for n, text in row.cells.items() if n in METHODS and text != "yes"
    )
    why = re.sub(r"\s+", " ", why).replace("|", "/")
    why = why if len(why) <= LONGEST else why[: LONGEST - 1] + "…"
    works = ", ".join(name for name in METHODS if row.cells.get(name) == "yes") or "none"
    return f"| `{row.kind}` | {row.head} | {row.cells.get('packing', '-')} | {works} | {why} |\n"


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    texts = sentences(200)
    return {name: train(iter(texts), 320, masked=head is MASKED_LM) for name, head in HEADS.items()}


@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("default")  # what libraries warn of is no failure of an architecture
def test_the_table_is_what_comes_of_it(
    tokenizers, tmp_path: Path, request: pytest.FixtureRequest, golden: Golden
):
    torch.set_num_threads(1)
    every = request.config.getoption("--families") == "all"
    kinds = [(kind, name) for name, head in HEADS.items() for kind in head.types] if every else SOME
    found = [line(tried(k, HEADS[h], tokenizers[h], tmp_path)) for k, h in kinds]
    print("".join(found))
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    table, _, after = rest.partition(END)
    head = "| model_type | kind | documents | trained by | what is not |\n|---|---|---|---|---|\n"
    if every and golden.update:
        DOCUMENT.write_text(f"{before}{BEGIN}{head}{''.join(found)}{END}{after}")
        return
    stands = set(table.splitlines(keepends=True))
    assert not [text for text in found if text not in stands], "write the table anew: --families=all"
    if every:
        assert table == head + "".join(found)
