import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kubetune_trainer import runtime, warned
from kubetune_trainer.data.tokenizer_training import train
from kubetune_trainer.model.making import create
from tests.fixtures.runs import TINY_LLAMA, sentences


@pytest.fixture(scope="session", autouse=True)
def _deterministic() -> None:
    runtime.configure()


@pytest.fixture(autouse=True)
def _no_warnings_of_other_tests() -> None:
    warned.restart()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    return train(iter(sentences(200)), 320)


@pytest.fixture
def tiny(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    torch.manual_seed(0)
    return create(TINY_LLAMA, tokenizer, 64)
