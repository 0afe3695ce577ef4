"""Signatures: methods' arguments and results as JSON Schema, from the schemas that validate the arguments.

Laws
- The body of a call has as many shapes as there are ways to split its arguments between `args` and `kwargs`,
  and fits one of them exactly if the method can be called with it.
- The same methods give the same schemas, in every process.
- An annotation that JSON cannot carry is stated: such an argument fits no call, such a result may be
  anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, get_type_hints

import msgspec
from pydantic import PydanticUserError, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from perdure.objects.defaults import fields_of, in_order, sets_in_order
from perdure.objects.rpc import Method, mirrored
from perdure.objects.wire import LOOSE, nodes, struct_of

Schema = dict[str, Any]
_REFERENCE = "#/components/schemas/{name}"
_OF_THE_APP = re.compile(
    r"perdure_app\d+_"
)  # the name of an app's module counts the apps a process has loaded


class Signatures(NamedTuple):
    """Schemas by (namespace, method name): the body of a call and its result.

    `definitions` are what they refer to.
    """

    bodies: Mapping[tuple[str, str], Schema]
    results: Mapping[tuple[str, str], Schema]
    definitions: Mapping[str, Schema]


def signatures_of(methods: Mapping[tuple[str, str], Method]) -> Signatures:
    """The schemas of these methods."""
    inputs: list[tuple[tuple[str, str], Any, TypeAdapter[Any]]] = []
    for key, method in methods.items():
        called: Any = mirrored(method.function, lambda _, hint: hint)  # pydantic takes a function for a type
        returned = get_type_hints(method.function, include_extras=True).get("return", Any)
        inputs.append((key, "validation", TypeAdapter(called, config=LOOSE)))
        inputs.append((key, "serialization", _adapter(returned)))
    structs, struct_definitions = _of_structs([each.core_schema for _, _, each in inputs])

    class Generator(_Generator):
        of_structs = structs

    schemas, rest = TypeAdapter.json_schemas(
        inputs, ref_template=_REFERENCE.replace("{name}", "{model}"), schema_generator=Generator
    )
    definitions = {**rest.get("$defs", {}), **struct_definitions}
    return Signatures(
        {key: schemas[key, "validation"] for key in methods},
        {key: schemas[key, "serialization"] for key in methods},
        {name: definitions[name] for name in sorted(definitions)},
    )


def _adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint, config=LOOSE)
    except PydanticUserError:  # a model brings a configuration of its own
        pass
    try:
        return TypeAdapter(hint)
    except PydanticUserError:  # of such a result there is no codec: it is JSON
        return TypeAdapter(Any)


def _of_structs(schemas: list[Any]) -> tuple[dict[Any, Schema], dict[str, Schema]]:
    """The schemas of the Structs in these schemas, and the definitions that they refer to."""
    classes = (struct_of(node) for schema in schemas for node in nodes(schema))
    kinds = list(dict.fromkeys(each for each in classes if each is not None))
    within = fields_of(kinds)
    reference = _REFERENCE.replace("{name}", "struct.{name}")
    made, components = msgspec.json.schema_components([*kinds, *within], ref_template=reference)
    for fields, schema in zip(within.values(), made[len(kinds) :], strict=True):
        properties = components[schema["$ref"].rpartition(".")[2]].get("properties", {})
        for field in fields:
            if "default" in (described := properties.get(field.encode_name, {})):
                described["default"] = sets_in_order(described["default"], field.default)
    return dict(zip(kinds, made, strict=False)), {f"struct.{name}": components[name] for name in components}


class _Generator(GenerateJsonSchema):
    """Writes the arguments of a function as the body of a call."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as in pydantic
    of_structs: dict[Any, Schema]

    def arguments_schema(self, schema: core_schema.ArgumentsSchema) -> Schema:
        shapes = list(self._shapes(schema))
        return shapes[0] if len(shapes) == 1 else {"anyOf": shapes}

    def _shapes(self, schema: core_schema.ArgumentsSchema) -> Iterator[Schema]:
        """One schema for each number of arguments that are given by position."""
        arguments = schema["arguments_schema"]
        ordered = [each for each in arguments if each.get("mode") != "keyword_only"]
        named = [each for each in arguments if each.get("mode") == "keyword_only"]
        for count in range(len(ordered) + 1):
            rest = ordered[count:]
            if any(each.get("mode") == "positional_only" and _is_required(each) for each in rest):
                continue
            rest = [each for each in rest if each.get("mode") != "positional_only"]
            args: Schema = {"type": "array"}
            if count:
                args |= {"prefixItems": [self._argument(each) for each in ordered[:count]], "minItems": count}
            if count == len(ordered) and "var_args_schema" in schema:
                args["items"] = self.generate_inner(schema["var_args_schema"])
            else:
                args["maxItems"] = count
            kwargs = self._by_name(rest + named, schema)
            required = (["args"] if count else []) + (["kwargs"] if "required" in kwargs else [])
            yield _object({"args": args, "kwargs": kwargs}, required, additional=False)

    def _by_name(
        self, arguments: list[core_schema.ArgumentsParameter], schema: core_schema.ArgumentsSchema
    ) -> Schema:
        further: Any = False
        if "var_kwargs_schema" in schema:
            further = self.generate_inner(schema["var_kwargs_schema"])
        return _object(
            {self.get_argument_name(each): self._argument(each) for each in arguments},
            [self.get_argument_name(each) for each in arguments if _is_required(each)],
            additional=further,
        )

    def _argument(self, argument: core_schema.ArgumentsParameter) -> Schema:
        """The schema of an argument, with its name as its title: by position it has no other."""
        return {"title": self.get_argument_name(argument), **self.generate_inner(argument["schema"])}

    def is_instance_schema(self, schema: core_schema.IsInstanceSchema) -> Schema:
        known = self.of_structs.get(schema["cls"])
        return super().is_instance_schema(schema) if known is None else dict(known)

    def handle_ref_overrides(self, json_schema: Schema) -> Schema:
        """Keep references to Structs: pydantic has no definition of them."""
        of_struct = json_schema.get("$ref", "").startswith(_REFERENCE.format(name="struct."))
        return json_schema if of_struct else super().handle_ref_overrides(json_schema)

    def bytes_schema(self, schema: core_schema.BytesSchema) -> Schema:
        """base64, unless a model of the app configures another encoding."""
        made = super().bytes_schema(schema)
        if made.get("format") == "binary" and "ser_json_bytes" not in self._config.config_dict:
            made["format"] = "base64url"
            for bound in ("minLength", "maxLength"):  # of the bytes, not of the text
                made.pop(bound, None)
        return made

    def float_schema(self, schema: core_schema.FloatSchema) -> Schema:
        """A number, or the text for one that JSON does not have."""
        made = super().float_schema(schema)
        if schema.get("allow_inf_nan") is False or (self.mode == "validation" and len(made) > 1):
            return made
        return {"anyOf": [made, {"enum": ["NaN", "Infinity", "-Infinity"]}]}

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        return {"not": {}} if self.mode == "validation" else {}

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Schema:
        made = super().default_schema(schema)
        if isinstance(made.get("default"), list) and isinstance(self.get_default_value(schema), AbstractSet):
            made["default"] = in_order(made["default"])  # it may have become a list before it was encoded
        return made

    def encode_default(self, dft: Any) -> Any:
        return sets_in_order(super().encode_default(dft), dft)

    def normalize_name(self, name: str) -> str:
        return super().normalize_name(_OF_THE_APP.sub("", name))


def _is_required(argument: core_schema.ArgumentsParameter) -> bool:
    return bool(argument["schema"]["type"] != "default")


def _object(properties: Schema, required: list[str], *, additional: Any) -> Schema:
    made: Schema = {"type": "object", "properties": properties}
    if required:
        made["required"] = required
    if additional != {}:
        made["additionalProperties"] = additional
    return made
