"""Expressions that select records: `outcome == "failed" and args[0] > 100`.

They are written as in Python: comparisons, `and`, `or`, `not`, `in`, numbers, texts, lists, subscripts,
`+ - * / %` on numbers, and the methods `startswith`, `endswith` and `lower` of texts. A name is a field or
property of `AuditRecord`.

Laws [test_audit.py]
- An expression cannot call, import, assign or loop: it is compiled to closures over what it may read, and
  each evaluation takes a number of steps that its length bounds.
- What a record does not have is None. A comparison or subscript that makes no sense for a record is False or
  None there: an expression never fails on a record.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from perdure.schemas.errors import MalformedCommand

Evaluate = Callable[[Any], Any]
MOST_CHARS = 2_000
NAMES = frozenset(
    (
        *("topic", "partition", "offset", "time_ms", "type", "object", "namespace", "name", "kind", "method"),
        *("path", "caller", "outcome", "id", "command", "epoch", "seq", "void", "request", "args", "kwargs"),
        *("values", "deletes", "cleared", "sends", "alarms", "status", "result", "error", "cause"),
    )
)
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_METHODS = frozenset(("startswith", "endswith", "lower"))
_NONSENSE = (TypeError, ValueError, ArithmeticError, LookupError)


def compile_expression(text: str) -> Callable[[Any], bool]:
    """A function that is True if a record satisfies the expression. Raises `MalformedCommand`."""
    if len(text) > MOST_CHARS:
        raise MalformedCommand(f"the expression has {len(text)} characters, over {MOST_CHARS}")
    try:
        evaluate = _compiled(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise MalformedCommand(f"the expression {text[:60]!r} cannot be read: {error}") from error
    return lambda record: bool(evaluate(record))


def _compiled(node: ast.expr) -> Evaluate:
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return lambda _: value
        case ast.Name(id=name):
            if name not in NAMES:
                raise MalformedCommand(
                    f"an expression has no name {name[:40]!r}; there are {', '.join(sorted(NAMES))}"
                )
            return operator.attrgetter(name)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            each_of = [_compiled(each) for each in items]
            return lambda record: [each(record) for each in each_of]
        case ast.BoolOp(op=ast.And(), values=parts):
            all_of = [_compiled(each) for each in parts]
            return lambda record: all(each(record) for each in all_of)
        case ast.BoolOp(values=parts):
            any_of = [_compiled(each) for each in parts]
            return lambda record: any(each(record) for each in any_of)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _compiled(operand)
            return lambda record: not inner(record)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _guarded(operator.neg, _compiled(operand))
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _ARITHMETIC:
            return _guarded(_of_numbers(_ARITHMETIC[type(op)]), _compiled(left), _compiled(right))
        case ast.Compare(left=left, ops=ops, comparators=others):
            return _comparison(_compiled(left), ops, [_compiled(each) for each in others])
        case ast.Subscript(value=value, slice=index) if not isinstance(index, ast.Slice):
            return _guarded(operator.getitem, _compiled(value), _compiled(index))
        case ast.Call(func=ast.Attribute(value=value, attr=attr), args=arguments, keywords=[]) if (
            attr in _METHODS
        ):
            return _guarded(_of_text(attr), _compiled(value), *(_compiled(each) for each in arguments))
    raise MalformedCommand(f"an expression cannot have {ast.unparse(node)[:60]!r}")


def _guarded(function: Callable[..., Any], *parts: Evaluate) -> Evaluate:
    """Calls the function with the values of the parts; None where it makes no sense."""

    def evaluate(record: Any) -> Any:
        try:
            return function(*(part(record) for part in parts))
        except _NONSENSE:
            return None

    return evaluate


def _comparison(left: Evaluate, ops: list[ast.cmpop], others: list[Evaluate]) -> Evaluate:
    steps = [(_COMPARE[type(op)], other) for op, other in zip(ops, others, strict=True)]

    def evaluate(record: Any) -> bool:
        value = left(record)
        for compare, other in steps:
            right = other(record)
            try:
                if not compare(value, right):
                    return False
            except _NONSENSE:
                return False
            value = right
        return True

    return evaluate


def _of_numbers(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The function for numbers only: the product of a text and a number could be as large as memory."""

    def checked(left: Any, right: Any) -> Any:
        if not isinstance(left, int | float) or not isinstance(right, int | float):
            raise TypeError
        return function(left, right)

    return checked


def _of_text(method: str) -> Callable[..., Any]:
    def checked(text: Any, *arguments: Any) -> Any:
        if type(text) is not str:
            raise TypeError
        return getattr(text, method)(*arguments)

    return checked
