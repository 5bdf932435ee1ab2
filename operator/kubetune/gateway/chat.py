"""The chat template that an adapter was trained with, and brings along.

The engine renders chats in the base's template. What an adapter brings is sent along with each of its chats
(the engine is started with --trust-request-chat-template, and only the gateway reaches it); clients' own
templates are refused.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubetune.gateway.errors import BadRequest
from kubetune.gateway.tokenizer_config import token, tokenizer_config, unreadable

_TEMPLATE = "chat_template.jinja"
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
_DEFAULT, _WITH_TOOLS = "default", "tool_use"


@dataclass(frozen=True)
class ChatTemplate:
    """How an adapter's chats are written, if not as the base's are."""

    texts: dict[str, str]
    """Jinja by name: `default`, and what else the tokenizer names."""
    tokens: dict[str, str] = field(default_factory=dict)
    """Special tokens that the template writes, and that the base's tokenizer lacks or has differently."""

    def put_into(self, body: dict[str, Any]) -> None:
        """Have the engine render a chat with this template."""
        name = _WITH_TOOLS if body.get("tools") and _WITH_TOOLS in self.texts else _DEFAULT
        body["chat_template"] = self.texts[name]
        if self.tokens:
            theirs = body.get("chat_template_kwargs")
            body["chat_template_kwargs"] = self.tokens | (theirs if isinstance(theirs, dict) else {})


def refuse_template(body: dict[str, Any]) -> None:
    """Refuse a request that chooses the template.

    Raises:
        BadRequest: it does.
    """
    more = body.get("chat_template_kwargs")
    if body.get("chat_template") is not None or (
        isinstance(more, dict) and more.get("chat_template") is not None
    ):
        raise BadRequest("chat_template is not accepted in requests: a model's chats are written in its own.")


def chat_template(adapter: Path, base: Path) -> ChatTemplate | None:
    """The template that an adapter's folder brings along; None: its chats are written as the base's are.

    Raises:
        AdapterRefused: it cannot be read.
    """
    config, of_base = tokenizer_config(adapter), tokenizer_config(base, strict=False)
    texts = _texts(adapter, config)
    if _DEFAULT not in texts:
        return None
    tokens = {
        name: text
        for name in _SPECIAL
        if (text := token(config, name)) and text != token(of_base, name) and name in "".join(texts.values())
    }
    if not tokens and texts == _texts(base, of_base):
        return None
    return ChatTemplate(texts, tokens)


def _texts(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Templates by name, in the two places where transformers writes them."""
    if (folder / _TEMPLATE).is_file():
        try:
            return {_DEFAULT: (folder / _TEMPLATE).read_text(encoding="utf-8")}
        except UnicodeDecodeError as error:
            raise unreadable(_TEMPLATE, error) from error
    found = config.get("chat_template")
    if isinstance(found, str):
        return {_DEFAULT: found}
    entries = found if isinstance(found, list) else []
    return {
        str(entry["name"]): str(entry["template"])
        for entry in entries
        if isinstance(entry, dict) and {"name", "template"} <= entry.keys()
    }
