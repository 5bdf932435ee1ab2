"""Building blocks of the models: the base class, and how CEL rules and list types are written on a field."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

GROUP = "kubetune.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class Block(BaseModel):
    """One object of the API: camelCase on the wire, immutable in Python, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    def wire(self) -> dict[str, Any]:
        """The object as it travels: camelCase keys, unset optional fields left out, JSON types only."""
        return self.model_dump(by_alias=True, exclude_none=True, mode="json")


def cel(rule: str, message: str, *, field_path: str | None = None) -> dict[str, str]:
    """One `x-kubernetes-validations` entry. The message says what to do, not only what is wrong."""
    out = {"rule": rule, "message": message}
    return out if field_path is None else {**out, "fieldPath": field_path}


def one_of(*fields: str) -> dict[str, str]:
    """Exactly one of these fields is set; after a name there may be a word on it: `from (a model)`."""
    given = [f"has(self.{field.partition(' ')[0]})" for field in fields]
    rule = " != ".join(given) if len(given) == 2 else f"[{', '.join(given)}].filter(x, x).size() == 1"
    return cel(rule, f"set exactly one of {', '.join(fields[:-1])} and {fields[-1]}")


def rules(*entries: dict[str, str]) -> dict[str, Any]:
    """Schema extra that attaches CEL rules to a model or a field."""
    return {"x-kubernetes-validations": list(entries)}


@dataclass(frozen=True)
class Check:
    """A rule about one value that the API server (by CEL) and the models (by `holds`) keep alike.

    Used instead of a schema's `pattern` where the API server would only print the regular expression.
    """

    rule: str
    message: str
    holds: Callable[[Any], object]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Run `holds` after the type's own validation."""
        return core_schema.no_info_after_validator_function(self._validate, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Add the CEL rule to the schema."""
        out = handler(schema)
        return {**out, **rules(*out.get("x-kubernetes-validations", []), cel(self.rule, self.message))}

    def _validate(self, value: Any) -> Any:
        if not self.holds(value):
            raise ValueError(self.message)
        return value


def matches(pattern: str, message: str) -> Check:
    """A string must match the whole regular expression (RE2 syntax)."""
    return Check(f"self.matches(r'^({pattern})$')", message, re.compile(pattern).fullmatch)


def immutable(*fields: str, kind: str) -> list[dict[str, str]]:
    """One rule per block: may be neither set, unset nor changed after creation."""
    return [
        cel(
            f"has(self.{f}) == has(oldSelf.{f}) && (!has(self.{f}) || self.{f} == oldSelf.{f})",
            f"cannot be changed after creation: create a new {kind} under another name",
            field_path=f".{f}",
        )
        for f in fields
    ]


def map_list(key: str) -> dict[str, Any]:
    """Schema extra of a list whose items are told apart by one field; the API server refuses duplicates."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


SET_LIST: dict[str, Any] = {"x-kubernetes-list-type": "set"}
