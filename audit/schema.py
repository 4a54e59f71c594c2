"""JSON Schema of scenario files, made from the code of every installed check and data source; editors complete from it."""

from __future__ import annotations

from typing import Any

from audit.names import available, resolve, resolve_member
from audit.parameters import UserError
from audit.scenario import CheckEntry, Scenario, Waiver

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def scenario_schema() -> dict[str, Any]:
    """The schema of a whole scenario file (draft 2020-12)."""
    definitions: dict[str, Any] = {}
    top = _lift(Scenario.model_json_schema(mode="validation"), definitions)
    properties = top["properties"]
    properties["model"] = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        "description": "Registered model(s) under audit.",
    }
    properties["data"] = _data_schema(definitions)
    properties["checks"] = {"type": "array", "minItems": 1, "items": _entry_schema(definitions)}
    properties["waivers"] = {"type": "array", "items": _lift(Waiver.model_json_schema(), definitions)}
    definitions.pop("CheckEntry", None)
    top["required"] = [name for name in top.get("required", []) if name != "model"]
    return {"$schema": DIALECT, "title": "assay scenario", **top, "$defs": definitions}


def parameters_schema(found: type[Any], definitions: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The schema of one part's parameters; its shared definitions move to `definitions` under a prefix of their own."""
    schema = found.model_json_schema(mode="validation")
    return _lift(schema, definitions, prefix)


def _lift(schema: dict[str, Any], definitions: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    local = schema.pop("$defs", {})
    renamed = {f"#/$defs/{name}": f"#/$defs/{prefix}{name}" for name in local}
    for name, body in local.items():
        definitions[f"{prefix}{name}"] = _relink(body, renamed)
    return _relink(schema, renamed)  # type: ignore[no-any-return]


def _relink(value: Any, renamed: dict[str, str]) -> Any:
    """Point references at their new names; a number may also be written as a fraction."""
    if isinstance(value, dict):
        out = {key: _relink(item, renamed) for key, item in value.items()}
        if "$ref" in out:
            out["$ref"] = renamed.get(out["$ref"], out["$ref"])
        if out.get("type") == "number":
            described = {key: out.pop(key) for key in ("description", "title", "default") if key in out}
            fraction = {
                "type": "string",
                "pattern": r"^\s*[-+]?[0-9.]+([eE][-+]?[0-9]+)?\s*/\s*[0-9.]+([eE][-+]?[0-9]+)?\s*$",
            }
            return {"anyOf": [out, fraction], **described}
        return out
    if isinstance(value, list):
        return [_relink(item, renamed) for item in value]
    return value


def _data_schema(definitions: dict[str, Any]) -> dict[str, Any]:
    options = []
    for name in available("datasets"):
        found = resolve("datasets", name)
        schema = parameters_schema(found, definitions, f"data.{name}.")
        fields = schema.get("properties", {})
        source: dict[str, Any] = {"const": name}
        if "member" in fields:
            schema["required"] = [r for r in schema.get("required", []) if r != "member"]
            source = {"type": "string", "pattern": rf"^{name}(\.[a-z][a-z0-9_]*)?$"}
            schema["if"] = {"properties": {"source": {"const": name}}}  # names in other letters stand by themselves
            schema |= {"then": {"required": ["member"]}, "else": {"not": {"required": ["member"]}}}
        schema["properties"] = {"source": source, **fields}
        schema["required"] = ["source", *schema.get("required", [])]
        options.append(schema)
    return {"description": "Where the rows come from and how they are split.", "oneOf": options}


def _entry_schema(definitions: dict[str, Any]) -> dict[str, Any]:
    entry = _lift(CheckEntry.model_json_schema(mode="validation"), definitions)
    reserved = {k: v for k, v in entry["properties"].items() if k not in ("check", "params")}
    gate = {"type": "string", "pattern": r"^\s*(>=|>|<=|<|==)"}
    checks, properties = available("checks"), dict(reserved)
    required: dict[str, Any] = {}
    for name in checks:
        found = resolve("checks", name)
        metrics = [metric.name for metric in found.metrics]
        schema = parameters_schema(found, definitions, f"{name}.")
        if wanted := schema.pop("required", None):  # a matrix may hold them instead
            required[name] = {"type": "object", "required": wanted}
        properties[name] = {"anyOf": [schema, {"type": "null"}]}
        definitions[f"{name}.metrics"] = {"enum": metrics}
    known = sorted({metric.name for name in checks for metric in resolve("checks", name).metrics})
    properties["require"] = {
        "type": "object",
        "description": "What the metrics must meet: 'metric', 'metric[key=value]' or 'metric[*]' to a comparison.",
        "propertyNames": {"pattern": rf"^({'|'.join(known)})(\[[^\[\]]+\])?$"} if known else {},
        "additionalProperties": {"anyOf": [gate, {"type": "array", "items": gate, "minItems": 1}]},
    }
    return {
        "anyOf": [
            {"enum": checks},
            {
                "type": "object",
                "properties": properties,
                "additionalProperties": False,
                "oneOf": [{"required": [name]} for name in checks],
                "if": {"not": {"required": ["matrix"]}},
                "then": {"properties": required},
            },
        ]
    }


def part_schema(group: Any, name: str) -> dict[str, Any]:
    """The schema of one check, attack, explainer or data source.

    Raises:
        UserError: no such name.
    """
    found, _ = resolve_member(group, name)
    if not hasattr(found, "model_json_schema"):
        raise UserError(f"'{name}' has no parameters")
    return found.model_json_schema(mode="validation")  # type: ignore[no-any-return]
