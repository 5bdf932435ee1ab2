"""A pydantic model as the OpenAPI v3 dialect of a CRD: a structural schema.

No `$ref`, no null unions (absent is null), no `const`, exclusive bounds as booleans, and no
`additionalProperties: false` (strict field validation refuses unknown fields).
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
"""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

_EXCLUSIVE = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
_LITERAL = frozenset(
    {"default", "enum", "required", "x-kubernetes-validations", "x-kubernetes-list-map-keys"}
)


class _Structural(GenerateJsonSchema):
    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        out = super().default_schema(schema)
        return {k: v for k, v in out.items() if k != "default" or v is not None}

    def encode_default(self, dft: Any) -> Any:
        # Only what differs from the block's own defaults: the API server fills in the rest.
        if isinstance(dft, BaseModel):
            return dft.model_dump(by_alias=True, exclude_unset=True, mode="json")
        return super().encode_default(dft)


def structural(model: type[BaseModel], *, defaults: bool = True) -> dict[str, Any]:
    """The structural schema of a model.

    Args:
        model: The model.
        defaults: Whether the API server fills in defaults. Fields of a status have none: it says what was
            observed.
    """
    schema = model.model_json_schema(by_alias=True, schema_generator=_Structural)
    definitions = schema.pop("$defs", {})
    out: dict[str, Any] = _convert(schema, definitions, drop={"title"} if defaults else {"title", "default"})
    return out


def _convert(node: Any, definitions: dict[str, Any], drop: set[str]) -> Any:
    if isinstance(node, list):
        return [_convert(item, definitions, drop) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[1]]
        node = target | {key: value for key, value in node.items() if key != "$ref"}
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key in drop or (key == "additionalProperties" and isinstance(value, bool)):
            continue
        if key == "properties":
            out[key] = {name: _convert(child, definitions, drop) for name, child in value.items()}
        elif key in _EXCLUSIVE:
            out |= {_EXCLUSIVE[key]: value, key: True}
        elif key == "const":
            out["enum"] = [value]
        elif key == "description":
            out[key] = " ".join(value.split())
        else:
            out[key] = value if key in _LITERAL else _convert(value, definitions, drop)
    return out
