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
from hashlib import blake2b
from math import isfinite
from typing import Any, Final, TypeAlias

from vivace.errors import BadFilter
from vivace.types import Metadata

MAX_BYTES: Final = 64 << 10
"""Most bytes of a filter: of its keys, strings and numbers as JSON."""
_MAX_NODES: Final = 16_384
"""Most values of a filter: mappings, lists and what is in them."""
_MAX_NESTING: Final = 100
"""Most levels of mappings and lists; a condition within `_MAX_DEPTH` filters has fewer."""
_MAX_DEPTH: Final = 32
_MAX_CONDITIONS: Final = 400
"""SQLite bounds the depth of an expression, which a chain of ANDs or ORs adds to."""
_COMPARISONS: Final = {"$eq": "=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_COLUMNS: Final = {"$id": "d.id", "$source": "d.source", "$title": "d.title"}
_OPERATORS: Final = ", ".join([*_COMPARISONS, "$ne", "$in", "$nin"])
_NULL: Final = "'null'"
_Test: TypeAlias = Callable[[str, Any, list[Any]], str]


def check_bounds(filters: object) -> None:
    """Refuse a filter that is too large to be looked at any further.

    Walks at most `_MAX_NODES` values, without recursion: the filter may come from anywhere.

    Raises:
        BadFilter: too many bytes, too many values, or nested too deeply.
    """
    nodes = size = 0
    level: list[Any] = [filters]
    for _ in range(_MAX_NESTING):
        below: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                nodes += len(value)
                size += sum(map(_size, value))
                below.extend(value.values())
            elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
                nodes += len(value)
                below.extend(value)
            else:
                size += _size(value)
            if nodes > _MAX_NODES or size > MAX_BYTES:
                raise BadFilter(
                    f"the filter has more than {_MAX_NODES:,} values or {MAX_BYTES:,} bytes",
                    fix="Ask for fewer documents at once, or give them a metadata key in common",
                )
        if not below:
            return
        level = below
    raise BadFilter(
        f"the filter is nested more than {_MAX_NESTING} levels deep", fix="Nest it less deeply"
    )


def _size(value: object) -> int:
    """Bytes of a key or a value, about as JSON has them."""
    if isinstance(value, str):
        # counting the bytes of a long one would copy it
        return len(value) if len(value) > MAX_BYTES else len(value.encode("utf-8", "replace"))
    if isinstance(value, int):
        return 1 + value.bit_length() // 3
    return 8


def digest(filters: Metadata) -> bytes:
    """16 bytes that stand for the filter; it has to be within its bounds.

    Raises:
        BadFilter: as `check_bounds`, or the filter is no JSON.
    """
    check_bounds(filters)
    try:
        text = json.dumps(filters, sort_keys=True, default=str)
    except (TypeError, ValueError) as error:
        raise BadFilter(f"the filter is no JSON: {error}", fix="Use strings as keys") from error
    return blake2b(text.encode(), digest_size=16).digest()


def to_sql(filters: Metadata, known: Collection[str]) -> tuple[str, list[Any]]:
    """A condition over `documents AS d`, and its parameters.

    Raises:
        BadFilter: a key that no document has, an unknown operator, an incomparable value, or a
            filter that is too large.
    """
    check_bounds(filters)
    return _Translation(known).whole(filters)


class _Translation:
    """Translates one filter; `known` are the metadata keys that some document has."""

    def __init__(self, known: Collection[str]) -> None:
        self._known = known
        self._parameters: list[Any] = []
        self._conditions = 0

    def whole(self, filters: Metadata) -> tuple[str, list[Any]]:
        return self._all_of(filters, 0), self._parameters

    def _all_of(self, filters: Metadata, depth: int) -> str:
        if not isinstance(filters, Mapping) or depth > _MAX_DEPTH:
            raise BadFilter(
                f"a filter must be a mapping at most {_MAX_DEPTH} deep, "
                f"not {type(filters).__name__}",
                fix='Write {"key": "value"} or {"$and": [{...}, {...}]}',
            )
        if not filters:
            self._count()
            return "1"
        return " AND ".join([self._one(key, value, depth) for key, value in filters.items()])

    def _one(self, key: str, value: Any, depth: int) -> str:
        if key in ("$and", "$or"):
            if not isinstance(value, Sequence) or isinstance(value, str) or not value:
                raise BadFilter(
                    f"{key} takes a non-empty list of filters", fix=f'{{"{key}": [...]}}'
                )
            parts = [f"({self._all_of(item, depth + 1)})" for item in value]
            return "(" + (" AND " if key == "$and" else " OR ").join(parts) + ")"
        if key == "$not":
            return f"NOT ({self._all_of(value, depth + 1)})"
        test = _column_test(key) if key in _COLUMNS else _metadata_test(key, self._known)
        operators = value if isinstance(value, Mapping) else {"$eq": value}
        if not operators:
            raise BadFilter(f"{_shown(key)}: no operator given", fix=f"One of {_OPERATORS}")
        return " AND ".join(
            [self._compare(key, name, operand, test) for name, operand in operators.items()]
        )

    def _compare(self, key: str, name: str, operand: Any, test: _Test) -> str:
        self._count()
        out = self._parameters
        if name in _COMPARISONS:
            return test(_COMPARISONS[name], _scalar(key, operand), out)
        if name == "$ne":
            return f"NOT {test('=', _scalar(key, operand), out)}"
        if name in ("$in", "$nin"):
            if not isinstance(operand, Sequence) or isinstance(operand, str):
                raise BadFilter(
                    f"{_shown(key)}: {name} takes a list", fix=f'{{"key": {{"{name}": [...]}}}}'
                )
            any_of = _any_of([_scalar(key, item) for item in operand], test, out)
            return any_of if name == "$in" else f"NOT {any_of}"
        raise BadFilter(
            f"{_shown(key)}: unknown operator {_shown(name)!r}", fix=f"One of {_OPERATORS}"
        )

    def _count(self) -> None:
        self._conditions += 1
        if self._conditions > _MAX_CONDITIONS:
            raise BadFilter(
                f"the filter has more than {_MAX_CONDITIONS} conditions",
                fix='Put the values of one key into one {"$in": [...]}',
            )


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
        near = ", ".join(map(_shown, sorted(known)[:20])) or "none"
        what = f"no document has the metadata key {_shown(key)!r}"
        raise BadFilter(what, fix=f"Known keys: {near}")
    if '"' in key:
        raise BadFilter(f"the metadata key {_shown(key)!r} holds a quote", fix="Rename the key")

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
    if operand is None or (isinstance(operand, float) and isfinite(operand)):
        return operand
    if isinstance(operand, int) and abs(operand) < 2**63:
        return operand
    raise BadFilter(
        f"{_shown(key)}: cannot compare with {_briefly(operand)!r} ({type(operand).__name__})",
        fix="Use a string, a boolean, or a finite number of at most 64 bits",
    )


def _shown(key: object) -> str:
    """A key as messages show it, cut where it is long."""
    text = str(key) if isinstance(key, str) else type(key).__name__
    return text if len(text) <= 80 else f"{text[:80]}..."


def _briefly(operand: object) -> str:
    # Python refuses to print integers of thousands of digits
    big = isinstance(operand, int) and operand.bit_length() > 128
    return "a large number" if big else str(operand)[:40]
