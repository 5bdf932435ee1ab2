"""The two sides of a preference, each a whole conversation."""

from kubetune_trainer.data.fields import Fields
from kubetune_trainer.data.turns import Message, messages_of, shared_turns, turn_of
from kubetune_trainer.errors import DataError

Sides = tuple[list[Message], list[Message]]
"""Chosen and rejected."""


def of_lists(fields: Fields, prompt: list[object] | str | None) -> Sides:
    """The two sides of a preference that are lists of messages.

    Raises:
        DataError: they are not two answers to the same prompt.
    """
    return _compared(fields, _whole(fields, "chosen", prompt), _whole(fields, "rejected", prompt))


def of_turns(fields: Fields) -> Sides:
    """The two sides of a preference that are single turns after a ShareGPT conversation; see `of_lists`."""
    asked = shared_turns(fields, "preference")
    chosen, rejected = (
        turn_of(fields.get(name), repr(fields.called(name))) for name in ("chosen", "rejected")
    )
    return _compared(fields, [*asked, chosen], [*asked, rejected])


def _whole(fields: Fields, name: str, prompt: list[object] | str | None) -> list[Message]:
    """A side together with its prompt. If there is no prompt, the side holds it itself; if the prompt is a
    string, it may (UltraFeedback)."""
    own = fields.called(name)
    said = messages_of(fields.get(name), f"message of {own!r}")
    if prompt is None:
        return said
    alone = [m.role for m in said] == ["assistant"]
    if isinstance(prompt, list):
        if not alone:
            raise DataError(f"{own!r} must be one message of the assistant")
        return [*messages_of(prompt, f"message of {fields.called('prompt')!r}"), *said]
    if alone:
        return [Message("user", prompt), *said] if prompt.strip() else said
    begins = next((m for m in said if m.role not in ("system", "developer")), None)
    if begins is None or begins.role != "user" or begins.content.strip() != prompt.strip():
        raise DataError(
            f"{own!r} must be one message of the assistant, or a conversation that begins with "
            f"{fields.called('prompt')!r} as the user's message"
        )
    return said


def _compared(fields: Fields, chosen: list[Message], rejected: list[Message]) -> Sides:
    names = [fields.called(name) for name in ("chosen", "rejected")]
    for name, side in zip(names, (chosen, rejected), strict=True):
        if not side or side[-1].role != "assistant":
            raise DataError(f"{name!r} must end with a message of the assistant")
    if chosen[:-1] != rejected[:-1]:
        raise DataError(
            f"{names[0]!r} and {names[1]!r} must be the same except for the last message, the assistant's: "
            "only answers to the same prompt can be compared"
        )
    if not chosen[:-1]:
        raise DataError("there is no prompt: add a message of the user that both answer")
    return chosen, rejected
