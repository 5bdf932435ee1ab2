"""Whether a tokenizer reads and writes text as its tokenizer.json says.

transformers builds some tokenizers anew from the vocabulary, by a class that tokenizer_config.json or the
model's type names, with steps of that class in place of the file's.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kubetune_trainer import model_files
from kubetune_trainer.model_files import CONFIG

FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
AS_IT_IS = "PreTrainedTokenizerFast"
"""The class that takes tokenizer.json as it is, in every version of transformers."""
SAID_APART = {"add_bos_token", "add_eos_token"}
"""Settings that apply whatever tokenizer.json puts around a text."""
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
PROBE = (
    "Hello world! It's 10:30, and I'LL pay $1,234.56 (€999) for 3½ l; they've  said 'no'...",
    "def f(x, *, n=10_000):\n\tif x != 0x1F and not n:\n        return {'a': [x**2]}\n\n\n}",
    "   three spaces, a tab\t, two\t\ttabs, lines\r\n\r\n  and \n \n an end  ",
    "https://example.org/a_b-c?d=e%20f#g <div class='x'>&amp;</div> C:\\dir camelCase ABC123def",
    "x  .  y ,  z ? n't 's 're do n't  a . b",
    "Straße, été, e\u0301te\u0301, naïve, İ, ﬁne, Ⅳ, ², ẞ, CAFÉ",
    "Русский, Ελληνικά, հայերեն, ქართული",
    "漢字とひらがな、カタカナ。中文，한국어 ＡＢＣ１２３",  # noqa: RUF001
    "العربية مُشَكَّلة, עברית, हिन्दी, ภาษาไทย, বাংলা, தமிழ்",
    "🙂 👩\u200d👩\u200d👧 👍🏽 ❤\ufe0f ∑∫√ → — “q” … \u00a0\u200b\ufeff",
)
"""Text of many scripts, code, runs of white space, emoji, and what normalisation changes."""


def difference(tokenizer: PreTrainedTokenizerBase, folder: Path) -> str | None:
    """The first text of the probe that a tokenizer encodes or decodes differently from a folder's
    tokenizer.json; None: there is none.

    A text that the file has no tokens for is skipped. The tokens around a text are not compared if
    tokenizer_config.json decides them.
    """
    truth = Tokenizer.from_file(str(folder / FILE))
    truth.no_truncation()
    truth.no_padding()
    around = not SAID_APART & _settings(folder).keys()
    with left_as_it_came(tokenizer):
        for text in PROBE:
            try:
                bare, wanted = (truth.encode(text, add_special_tokens=s).ids for s in (False, around))
            except Exception:  # noqa: S112 - the library's, of a character that no token stands for
                continue
            written = truth.decode(bare, skip_special_tokens=False)
            if (
                tokenizer(text, add_special_tokens=around)["input_ids"] != wanted
                or tokenizer.decode(bare, clean_up_tokenization_spaces=False) != written
            ):
                return text
    return None


@contextmanager
def left_as_it_came(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Restore truncation and padding of a tokenizer afterwards, because every call sets them."""
    backend = tokenizer.backend_tokenizer
    cuts, pads = backend.truncation, backend.padding
    try:
        yield
    finally:
        backend.enable_truncation(**cuts) if cuts else backend.no_truncation()
        backend.enable_padding(**pads) if pads else backend.no_padding()


def as_its_file(folder: Path, other: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder exactly as its tokenizer.json defines it.

    Args:
        folder: with the files.
        other: the tokenizer as its class reads it, if it can: it may name more special tokens.
    """
    plain = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    there = Tokenizer.from_file(str(folder / FILE))
    for name in NAMED:
        token = getattr(other, name, None)
        if getattr(plain, name) is None and token is not None and there.token_to_id(token) is not None:
            setattr(plain, name, token)
    return plain


def read_beside(
    tokenizer: PreTrainedTokenizerBase, config: dict[str, Any]
) -> tuple[PreTrainedTokenizerBase, str | None]:
    """Save a tokenizer beside a model's config.json and read it back as transformers does.

    Returns:
        What was read, and the first text of the probe that it reads differently; see `difference`.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(tokenizer, folder)
        (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        read = by_class(folder)
        return read, difference(read, folder)


def by_class(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder as transformers reads it."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def write(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """The files of a tokenizer, for every version of transformers."""
    tokenizer.save_pretrained(folder)
    settings = _settings(folder)
    if settings.get("tokenizer_class") == PreTrainedTokenizerFast.__name__:  # known to new versions only
        settings["tokenizer_class"] = AS_IT_IS
        text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        (folder / SETTINGS).write_text(text, encoding="utf-8")


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS
    return model_files.json_object(path, "the tokenizer") if path.is_file() else {}
