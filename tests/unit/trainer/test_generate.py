import copy

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig

from kubetune_trainer import generate, runtime
from kubetune_trainer.errors import Terminated
from kubetune_trainer.generate import answers, prompt_of, written
from kubetune_trainer.model import attention
from kubetune_trainer.signals import Stop


@pytest.fixture
def sharp(tiny):
    """A model that is sure of what it says, so that rounding cannot change its answers."""
    with torch.no_grad():
        for p in tiny.parameters():
            p.mul_(3)
    return tiny


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("fast", [False, True])
def test_an_answer_does_not_depend_on_the_other_prompts(sharp, tokenizer, precision, fast: bool):
    if fast:
        attention.choose(sharp, 32)
    prompts = [
        ("a", True),
        ("the cat sat on", True),
        ("", True),
        ("one dog and a big red house by night", True),
    ]
    with runtime.autocast(sharp.device, precision):
        together = answers(sharp, tokenizer, prompts, 8, Stop())
        alone = [answers(sharp, tokenizer, [p], 8, Stop())[0] for p in prompts]
    assert together == alone
    assert len(set(together)) > 1


def test_an_answer_is_the_greedy_continuation(sharp, tokenizer):
    ids = tokenizer("the cat")["input_ids"]
    for _ in range(6):
        ids.append(int(sharp(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    expected = tokenizer.decode(ids, skip_special_tokens=True).removeprefix("the cat").strip()
    assert answers(sharp, tokenizer, [("the cat", True)], 6, Stop())[0].answer == expected


def test_what_the_base_recommends_for_chatting_changes_no_answer(sharp, tokenizer):
    plain = answers(sharp, tokenizer, [("the cat", True)], 6, Stop())
    usual = GenerationConfig(
        repetition_penalty=5.0, no_repeat_ngram_size=1, num_beams=3, return_dict_in_generate=True,
        suppress_tokens=tokenizer("the cat")["input_ids"], eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    sharp.generation_config = usual
    assert answers(sharp, tokenizer, [("the cat", True)], 6, Stop()) == plain
    assert sharp.generation_config is usual


def test_a_prompt_does_not_end_the_text(sharp, tokenizer):
    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    plain = answers(sharp, tokenizer, [("the cat", True)], 6, Stop())
    assert answers(sharp, other, [("the cat", True)], 6, Stop()) == plain


def test_long_prompts_lose_their_beginning(sharp, tokenizer):
    text = "the cat sat on a mat " * 20
    room = sharp.config.max_position_embeddings - 4
    tail = tokenizer.decode(tokenizer(text)["input_ids"][-room:])
    assert tokenizer(tail)["input_ids"] == tokenizer(text)["input_ids"][-room:]
    assert answers(sharp, tokenizer, [(text, True)], 4, Stop()) == answers(
        sharp, tokenizer, [(tail, True)], 4, Stop()
    )


def test_an_answer_is_written_as_an_engine_writes_it(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.clean_up_tokenization_spaces = True
    assert written([other("a . b ?")["input_ids"]], other) == ["a . b ?"]


def test_batches_and_order(sharp, tokenizer, monkeypatch):
    prompts = [(w, True) for w in ["cat", "house", "a", "night", "sat", "one", "big"]]
    whole = answers(sharp, tokenizer, prompts, 4, Stop())
    monkeypatch.setattr(generate, "BATCH", 2)
    assert answers(sharp, tokenizer, prompts, 4, Stop()) == whole


def test_stopping_between_tokens(sharp, tokenizer):
    stop = Stop()
    stop.requested = True
    with pytest.raises(Terminated):
        answers(sharp, tokenizer, [("a", True)], 4, stop)


def test_prompts(tokenizer):
    assert prompt_of("hi", tokenizer, chat=False) == ("hi", True)
    assert prompt_of("hi", tokenizer, chat=True) == ("### Instruction:\nhi\n\n### Response:\n", False)
