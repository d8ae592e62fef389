"""Metadata filters to SQL.

    {"lang": "en"}                          equal (an array holds the value)
    {"year": {"$gte": 2020, "$lt": 2023}}   range
    {"tag": {"$in": ["a", "b"]}}            any of
    {"$and": [...]}, {"$or": [...]}, {"$not": {...}}
    {"$id": "doc-1"}, {"$source": "/path"}  the document's own fields

Several keys in one mapping must all hold. Values compare only within their type.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

from vivace.errors import BadFilter
from vivace.types import Metadata

_COMPARISONS = {"$eq": "=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_COLUMNS = {"$id": "d.id", "$source": "d.source", "$title": "d.title"}
_OPERATORS = ", ".join([*_COMPARISONS, "$ne", "$in", "$nin"])
_MAX_DEPTH = 32
_MAX_CONDITIONS = 400
_NULL = "'null'"
_Test: TypeAlias = Callable[[str, Any, list[Any]], str]


def to_sql(filters: Metadata, known: Collection[str]) -> tuple[str, list[Any]]:
    """A condition over `documents AS d`, and its parameters.

    Raises:
        BadFilter: a key that no document has, an unknown operator, an incomparable value.
    """
    parameters: list[Any] = []
    condition = _all_of(filters, known, parameters, 0)
    if len(parameters) > 2 * _MAX_CONDITIONS:
        raise BadFilter(
            f"the filter has more than {_MAX_CONDITIONS} conditions",
            fix='Put the values of one key into one {"$in": [...]}',
        )
    return condition, parameters


def _all_of(filters: Metadata, known: Collection[str], out: list[Any], depth: int) -> str:
    if not isinstance(filters, Mapping) or depth > _MAX_DEPTH:
        raise BadFilter(
            f"a filter must be a mapping at most {_MAX_DEPTH} deep, not {type(filters).__name__}",
            fix='Write {"key": "value"} or {"$and": [{...}, {...}]}',
        )
    parts = [_one(key, value, known, out, depth) for key, value in filters.items()]
    return " AND ".join(parts) if parts else "1"


def _one(key: str, value: Any, known: Collection[str], out: list[Any], depth: int) -> str:
    if key in ("$and", "$or"):
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise BadFilter(f"{key} takes a non-empty list of filters", fix=f'{{"{key}": [...]}}')
        parts = [f"({_all_of(item, known, out, depth + 1)})" for item in value]
        return "(" + (" AND " if key == "$and" else " OR ").join(parts) + ")"
    if key == "$not":
        return f"NOT ({_all_of(value, known, out, depth + 1)})"
    test = _column_test(key) if key in _COLUMNS else _metadata_test(key, known)
    operators = value if isinstance(value, Mapping) else {"$eq": value}
    if not operators:
        raise BadFilter(f"{key}: no operator given", fix=f"One of {_OPERATORS}")
    return " AND ".join(
        _compare(key, name, operand, test, out) for name, operand in operators.items()
    )


def _compare(key: str, name: str, operand: Any, test: _Test, out: list[Any]) -> str:
    if name in _COMPARISONS:
        return test(_COMPARISONS[name], _scalar(key, operand), out)
    if name == "$ne":
        return f"NOT {test('=', _scalar(key, operand), out)}"
    if name in ("$in", "$nin"):
        if not isinstance(operand, Sequence) or isinstance(operand, str):
            raise BadFilter(f"{key}: {name} takes a list", fix=f'{{"{key}": {{"{name}": [...]}}}}')
        any_of = _any_of([_scalar(key, item) for item in operand], test, out)
        return any_of if name == "$in" else f"NOT {any_of}"
    raise BadFilter(f"{key}: unknown operator {name!r}", fix=f"One of {_OPERATORS}")


def _any_of(operands: Sequence[Any], test: _Test, out: list[Any]) -> str:
    """Any of many values, as one condition a type: SQLite bounds the depth of a chain of ORs."""
    by_types: dict[str, list[Any]] = {}
    for operand in operands:
        by_types.setdefault(_json_types(operand), []).append(operand)
    parts = [
        test("=", None, out) if types == _NULL else test("IN", of_type, out)
        for types, of_type in by_types.items()
    ]
    return "(" + (" OR ".join(parts) or "0") + ")"


def _column_test(key: str) -> _Test:
    def test(operator: str, operand: Any, out: list[Any]) -> str:
        if operator == "IN":
            out.append(json.dumps(operand))
            return f"({_COLUMNS[key]} IN (SELECT value FROM json_each(?)))"
        out.append(operand)
        return f"({_COLUMNS[key]} {operator} ?)"

    return test


def _metadata_test(key: str, known: Collection[str]) -> _Test:
    if key not in known:
        near = ", ".join(sorted(known)[:20]) or "none"
        raise BadFilter(f"no document has the metadata key {key!r}", fix=f"Known keys: {near}")
    if '"' in key:
        raise BadFilter(f"the metadata key {key!r} holds a quote", fix="Rename the key")

    def test(operator: str, operand: Any, out: list[Any]) -> str:
        # json_each yields an array's elements, and a single value as itself
        values = "EXISTS (SELECT 1 FROM json_each(d.metadata, ?) WHERE"
        out.append(f'$."{key}"')
        if operand is None:
            return f"{values} type = {_NULL})"
        if operator == "IN":
            out.append(json.dumps(operand))
            among = (
                f"value IN (SELECT value FROM json_each(?)) AND type IN ({_json_types(operand[0])})"
            )
            return f"{values} {among})"
        out.append(operand)
        return f"{values} value {operator} ? AND type IN ({_json_types(operand)}))"

    return test


def _json_types(operand: Any) -> str:
    if operand is None:
        return _NULL
    if isinstance(operand, bool):
        return "'true', 'false'"
    return "'text'" if isinstance(operand, str) else "'integer', 'real'"


def _scalar(key: str, operand: Any) -> Any:
    if isinstance(operand, str):
        return operand.encode("utf-8", "replace").decode()  # a lone surrogate matches nothing
    if operand is None or isinstance(operand, float):
        return operand
    if isinstance(operand, int) and abs(operand) < 2**63:
        return operand
    raise BadFilter(
        f"{key}: cannot compare with {str(operand)[:40]!r} ({type(operand).__name__})",
        fix="Use a string, a boolean, or a number of at most 64 bits",
    )
