"""The fields of a record, by the names that its format uses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubetune_trainer.errors import DataError


class NoText(Exception):
    """A record lacks the text that its format is about: it is left out and counted."""


@dataclass(frozen=True, slots=True)
class Fields:
    """What a record holds, by the names that its format uses."""

    data: Mapping[str, Any]
    names: Mapping[str, str]
    """Renamed fields: the format's name -> the record's own name."""

    def called(self, name: str) -> str:
        """The record's own name of a field."""
        return self.names.get(name, name)

    def get(self, name: str) -> Any:
        """What a field holds; None if it is not there."""
        return self.data.get(self.called(name))

    def string(self, name: str, form: str, *, optional: bool = False) -> str:
        """What a field holds, which must be a string.

        Raises:
            NoText: it is null, and not optional.
        """
        value = self.get(name)
        if value is None and optional:
            return ""
        if value is None and self.called(name) in self.data:
            raise NoText
        if not isinstance(value, str):
            problem = "is missing" if value is None else f"is {kind(value)}"
            raise DataError(f"field {self.called(name)!r} {problem}; format {form} needs it to be a string")
        return value

    def text(self, name: str, form: str) -> str:
        """What a field holds, which must be a string with something in it.

        Raises:
            NoText: it is null, empty or nothing but white space.
        """
        value = self.string(name, form)
        if not value.strip():
            raise NoText
        return value

    def filled(self, name: str, form: str, item: str) -> list[object]:
        """What a field holds, which must be a list with something in it.

        Raises:
            NoText: it is null or empty.
        """
        value = self.get(name)
        if value == [] or (value is None and self.called(name) in self.data):
            raise NoText
        if not isinstance(value, list):
            raise DataError(f'format {form} needs "{self.called(name)}": [{item}, ...]')
        return value


def kind(value: object) -> str:
    """What a value is, in JSON's words."""
    for types, name in _KINDS:
        if isinstance(value, types):
            return name
    return f"of type {type(value).__name__}"  # from Parquet: a date, bytes


_KINDS: list[tuple[type | tuple[type, ...], str]] = [
    (bool, "true or false"),
    ((int, float), "a number"),
    (str, "a string"),
    (list, "a list"),
    (dict, "an object"),
    (type(None), "null"),
]
