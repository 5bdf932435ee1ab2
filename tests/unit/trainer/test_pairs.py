import numpy as np

from kubetune_trainer.data.formats import to_example
from kubetune_trainer.data.pairs import collate, encode_pairs, store_pairs
from kubetune_trainer.data.read import Record
from kubetune_trainer.data.store import IGNORED

TALK = [("user", "who?"), ("assistant", "me."), ("user", "you?")]
RECORD = {
    "prompt": [{"role": r, "content": c} for r, c in TALK],
    "chosen": [{"role": "assistant", "content": "it is a cat."}],
    "rejected": [{"role": "assistant", "content": "no."}],
}


def test_what_counts_is_the_answer_and_not_an_earlier_one(tokenizer):
    record = Record(RECORD, "x.jsonl", 1)
    pairs = store_pairs(
        encode_pairs([to_example(record, "preference")], [record], tokenizer, 500), len(tokenizer)
    )
    batch = collate([pairs[0]], pad=tokenizer.pad_token_id)
    said = [tokenizer.decode(row[row != IGNORED]) for row in batch.labels]
    assert said == ["it is a cat.<|endoftext|>", "no.<|endoftext|>"]
    asked = tokenizer.apply_chat_template(RECORD["prompt"], tokenize=False, add_generation_prompt=True)
    for row, labels in zip(batch.tokens, batch.labels, strict=True):
        first = int((labels != IGNORED).nonzero()[0])
        assert tokenizer.decode(row[: first + 1]) == asked


def test_a_batch_of_pairs(tokenizer):
    records = [Record({"prompt": "a ", "chosen": "cat" * n, "rejected": "dog"}, "x", n) for n in (1, 2)]
    examples = [to_example(r, "preference") for r in records]
    pairs = store_pairs(encode_pairs(examples, records, tokenizer, 500), len(tokenizer))
    pairs.reference[:] = 0.5, -1
    assert len(pairs) == 2
    assert [len(p) for p in pairs] == [int(n) - 2 for n in pairs.tokens], "the last of a side is no input"
    assert [p.targets for p in pairs] == [1, 1]
    batch = collate(pairs[:], pad=1)
    assert batch.reference.tolist() == [0.5, -1]
    sides = [pairs[0].chosen, pairs[1].chosen, pairs[0].rejected, pairs[1].rejected]
    assert batch.mask.sum(1).tolist() == [len(s) for s in sides]
    for row, mask, side in zip(batch.tokens, batch.mask, sides, strict=True):
        np.testing.assert_array_equal(row[mask.bool()], side.tokens)
    idle = pairs[0].idle()
    assert (idle.targets, len(idle)) == (0, len(pairs[0]))
