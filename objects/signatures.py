"""What methods take and give, as JSON Schema: read from the schemas by which their arguments are validated.

Laws
- The body of a call has as many shapes as there are ways to split its arguments between `args` and `kwargs`, and
  fits one of them exactly if the method can be called with it.
- The same methods give the same schemas, in every process.
- What JSON cannot be is said: of an argument that no call fits, of a result that it may be anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_type_hints

import msgspec
from pydantic import PydanticUserError, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from perdure.objects.rpc import LOOSE, Method, OfStruct, mirrored, readable

Schema = dict[str, Any]
_REFERENCE = "#/components/schemas/{name}"
_OF_THE_APP = re.compile(
    r"perdure_app\d+_"
)  # the name of an app's module counts the apps a process has loaded


class Signatures(NamedTuple):
    """Of each method, by (namespace, name), the body of its call and its result; `definitions` is what they refer to."""

    bodies: Mapping[tuple[str, str], Schema]
    results: Mapping[tuple[str, str], Schema]
    definitions: Mapping[str, Schema]


def signatures_of(methods: Mapping[tuple[str, str], Method]) -> Signatures:
    """What these methods take and give."""
    hints = {key: get_type_hints(each.function, include_extras=True) for key, each in methods.items()}
    structs, struct_definitions = _of_structs(hints)

    class Generator(_Generator):
        of_structs = structs

    inputs: list[tuple[tuple[str, str], Any, TypeAdapter[Any]]] = []
    for key, method in methods.items():
        called: Any = mirrored(method.function)  # pydantic takes a function for a type
        inputs.append((key, "validation", TypeAdapter(called, config=LOOSE)))
        inputs.append((key, "serialization", _adapter(hints[key].get("return", Any))))
    schemas, rest = TypeAdapter.json_schemas(
        inputs, ref_template=_REFERENCE.replace("{name}", "{model}"), schema_generator=Generator
    )
    definitions = {**rest.get("$defs", {}), **struct_definitions}
    return Signatures(
        {key: schemas[key, "validation"] for key in methods},
        {key: _found(structs, hints[key].get("return")) or schemas[key, "serialization"] for key in methods},
        {name: definitions[name] for name in sorted(definitions)},
    )


def _adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint, config=LOOSE)
    except PydanticUserError:  # a model brings a configuration of its own
        pass
    try:
        return TypeAdapter(hint)
    except PydanticUserError:  # nothing validates results: their annotation may be anything
        return TypeAdapter(Any)


def _of_structs(hints: Mapping[Any, Mapping[str, Any]]) -> tuple[list[tuple[Any, Schema]], dict[str, Schema]]:
    """What msgspec makes, with its schemas, and their definitions."""
    kinds: list[Any] = []
    for of_method in hints.values():
        kinds += [hint for hint in of_method.values() if readable(hint) is not hint and hint not in kinds]
    reference = _REFERENCE.replace("{name}", "struct.{name}")
    schemas, components = msgspec.json.schema_components(kinds, ref_template=reference)
    return list(zip(kinds, schemas, strict=True)), {f"struct.{name}": components[name] for name in components}


def _found(structs: list[tuple[Any, Schema]], wanted: Any) -> Schema | None:
    return next((dict(schema) for kind, schema in structs if kind == wanted), None)


class _Generator(GenerateJsonSchema):
    """Writes the arguments of a function as the body of a call."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as in pydantic
    of_structs: list[tuple[Any, Schema]]

    def arguments_schema(self, schema: core_schema.ArgumentsSchema) -> Schema:
        shapes = list(self._shapes(schema))
        return shapes[0] if len(shapes) == 1 else {"anyOf": shapes}

    def _shapes(self, schema: core_schema.ArgumentsSchema) -> Iterator[Schema]:
        """One for each number of arguments that come by position."""
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
        """With its name as its title: by position it has no other."""
        return {"title": self.get_argument_name(argument), **self.generate_inner(argument["schema"])}

    def function_plain_schema(self, schema: core_schema.PlainValidatorFunctionSchema) -> Schema:
        maker = schema["function"]["function"]
        if isinstance(maker, OfStruct):
            return _found(self.of_structs, maker.kind) or {}
        return super().function_plain_schema(schema)

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        return {"not": {}} if self.mode == "validation" else {}

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
