"""A model in training, wrapped for the harness."""

import time
from typing import Any

from transformers import PreTrainedTokenizerBase

from kubetune_trainer.data.thoughts import Thoughts
from kubetune_trainer.generate import StopCheck
from kubetune_trainer.log import say
from kubetune_trainer.model.counting import context_of
from kubetune_trainer.model.generating import Way, way_of
from kubetune_trainer.signals import Stop

LONGEST = 4096
"""Most tokens of a question with its answer."""
ROWS, ELEMENTS = 32, 1 << 26
"""Most sequences per forward pass, and most logits of them together: 256 MiB in fp32."""
ANSWERS = 8
"""Answers generated at a time, whose keys and values are held."""
_SAY_SECONDS = 30.0


class _Callable:
    """Hides that the model is a torch module, because the harness would tie a module's weights again."""

    def __init__(self, model: Any, stop: Stop, way: Way) -> None:
        self._model, self._stop, self.way = model, stop, way
        self.config, self.device = model.config, model.device
        self._passes, self._said = 0, time.monotonic()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._tick()
        return self._model(*args, **kwargs)

    def generate(self, *args: Any, stopping_criteria: Any = (), **kwargs: Any) -> Any:
        self._tick()
        criteria = [*stopping_criteria, StopCheck(self._stop)]
        more = kwargs | {"use_cache": self.way.cached}
        return self._model.generate(*args, stopping_criteria=criteria, **more)

    def _tick(self) -> None:
        """Check whether to stop, and log now and then that it goes on."""
        self._stop.check()
        self._passes += 1
        if time.monotonic() - self._said > _SAY_SECONDS:
            self._said = time.monotonic()
            say("lm-eval", batches=self._passes)


def harness_model(model: Any, tokenizer: PreTrainedTokenizerBase, stop: Stop) -> Any:
    """An `lm_eval.api.model.LM`.

    Args:
        model: a language model.
        tokenizer: its tokenizer.
        stop: looked at before each token.
    """
    from lm_eval.models.huggingface import HFLM

    class HarnessModel(HFLM):
        """Batches as large as their logits allow. Progress bars are off, as they spoil a log."""

        @property
        def max_gen_toks(self) -> int:
            """Tokens of an answer if a task does not say; half of the context is left for the question."""
            return min(super().max_gen_toks, self.max_length // 2)

        def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
            longest = max((min(len(c) + len(a), self.max_length) for _, c, a in requests), default=1)
            self.batch_size_per_gpu = max(1, min(ROWS, ELEMENTS // (longest * len(self.tokenizer))))
            return super()._loglikelihood_tokens(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            self.batch_size_per_gpu = ANSWERS if way.padded else 1
            return super().generate_until(requests, disable_tqdm=True)

    way = way_of(model, tokenizer.pad_token_id)
    return HarnessModel(
        pretrained=_Callable(model, stop, way),
        tokenizer=tokenizer,
        backend="causal",
        batch_size=ROWS,
        max_length=min(context_of(model) or LONGEST, LONGEST),
        softmax_dtype="float32",
        chat_template_args=getattr(tokenizer, "template_settings", None),
        think_end_token=Thoughts(tokenizer).end,
    )
