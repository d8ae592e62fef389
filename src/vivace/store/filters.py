"""Metadata filters to SQL.

    {"lang": "en"}                          equal (an array holds the value)
    {"year": {"$gte": 2020, "$lt": 2023}}   range
    {"tag": {"$in": ["a", "b"]}}            any of
    {"$and": [...]}, {"$or": [...]}, {"$not": {...}}
    {"$id": "doc-1"}, {"$source": "/path"}  the document's own fields

Several keys in one mapping must all hold. Values compare only within their type.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from vivace.errors import BadFilter
from vivace.types import Metadata

_COMPARISONS = {"$eq": "=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_COLUMNS = {"$id": "d.id", "$source": "d.source", "$title": "d.title"}
_OPERATORS = ", ".join([*_COMPARISONS, "$ne", "$in", "$nin"])
_MAX_DEPTH = 32


def to_sql(filters: Metadata, known: Collection[str]) -> tuple[str, list[Any]]:
    """A condition over `documents AS d`, and its parameters.

    Raises:
        BadFilter: a key that no document has, an unknown operator, an incomparable value.
    """
    parameters: list[Any] = []
    return _all_of(filters, known, parameters, 0), parameters


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


def _compare(
    key: str, name: str, operand: Any, test: Callable[[str, Any, list[Any]], str], out: list[Any]
) -> str:
    if name in _COMPARISONS:
        return test(_COMPARISONS[name], _scalar(key, operand), out)
    if name == "$ne":
        return f"NOT {test('=', _scalar(key, operand), out)}"
    if name in ("$in", "$nin"):
        if not isinstance(operand, Sequence) or isinstance(operand, str):
            raise BadFilter(f"{key}: {name} takes a list", fix=f'{{"{key}": {{"{name}": [...]}}}}')
        parts = [test("=", _scalar(key, item), out) for item in operand]
        any_of = "(" + (" OR ".join(parts) or "0") + ")"
        return any_of if name == "$in" else f"NOT {any_of}"
    raise BadFilter(f"{key}: unknown operator {name!r}", fix=f"One of {_OPERATORS}")


def _column_test(key: str) -> Callable[[str, Any, list[Any]], str]:
    def test(operator: str, operand: Any, out: list[Any]) -> str:
        out.append(operand)
        return f"({_COLUMNS[key]} {operator} ?)"

    return test


def _metadata_test(key: str, known: Collection[str]) -> Callable[[str, Any, list[Any]], str]:
    if key not in known:
        near = ", ".join(sorted(known)[:20]) or "none"
        raise BadFilter(f"no document has the metadata key {key!r}", fix=f"Known keys: {near}")
    if '"' in key:
        raise BadFilter(f"the metadata key {key!r} holds a quote", fix="Rename the key")

    def test(operator: str, operand: Any, out: list[Any]) -> str:
        types = _json_types(operand)
        out += [f'$."{key}"', operand]
        # json_each yields an array's elements, and a single value as itself
        return (
            "EXISTS (SELECT 1 FROM json_each(d.metadata, ?)"
            f" WHERE value IS NOT NULL AND value {operator} ? AND type IN ({types}))"
            if operand is not None
            else "EXISTS (SELECT 1 FROM json_each(d.metadata, ?) WHERE value IS ?)"
        )

    return test


def _json_types(operand: Any) -> str:
    if isinstance(operand, bool):
        return "'true', 'false'"
    return "'text'" if isinstance(operand, str) else "'integer', 'real'"


def _scalar(key: str, operand: Any) -> Any:
    if operand is None or isinstance(operand, str | int | float):
        return operand
    raise BadFilter(
        f"{key}: cannot compare with {type(operand).__name__}",
        fix="Use a string, number or boolean",
    )
