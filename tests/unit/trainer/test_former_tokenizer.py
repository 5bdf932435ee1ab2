"""An adapter's own tokenizer, as other tools save it beside the weights."""

import json
from pathlib import Path

import pytest

from kubetune.api.runspec import RunAdapter
from kubetune_trainer import warned
from kubetune_trainer.methods import former_tokenizer


@pytest.mark.parametrize(
    ("settings", "template", "told"),
    [
        (None, None, None),
        ({"eos_token": "<|endoftext|>"}, "{own}\n", None),
        ({"eos_token": {"content": "<|im_end|>"}}, None, "another eos_token ('<|im_end|>', not"),
        ({"chat_template": "{{ messages[0].content }}"}, None, "another chat template than"),
        ({"eos_token": "<|im_end|>"}, "{{ 1 }}", "another chat template and eos_token ("),
    ],
)
def test_what_differs_is_told(tokenizer, tmp_path: Path, settings: dict | None, template: str | None, told):
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    if template is not None:
        (tmp_path / "chat_template.jinja").write_text(template.replace("{own}", tokenizer.chat_template))
    adapter = RunAdapter(uri="pvc://a/b", path=str(tmp_path), root=str(tmp_path))
    former_tokenizer.tell(adapter, tokenizer)
    if told is None:
        assert not warned.given()
    else:
        (warning,) = warned.given()
        assert warning.reason == "AdapterTokenizerIgnored"
        assert told in warning.message
