# SPDX-License-Identifier: Apache-2.0
"""Frozen dataclasses of options to and from JSON, those that an older version wrote included.

A saved config outlives a new option: what it lacks has today's default, or, where that is not what
the code did before there was the option, what `before` says. What it has and this version does not
know is refused: it is misspelt, or another version's.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import pydantic

from recurrentgemma.errors import UserError, did_you_mean

Config = TypeVar("Config")


def to_json(config: Any) -> dict[str, Any]:
    """Plain values of every field, those of nested configs included; tuples become lists."""
    return _adapter(type(config)).dump_python(config, mode="json")


def from_json(
    kind: type[Config],
    fields: Mapping[str, Any],
    *,
    renamed: Mapping[str, str] | None = None,
    before: Mapping[str, Any] | None = None,
) -> Config:
    """The config that to_json wrote, in this version or an older one.

    renamed: today's names of fields by the names that they had. before: by field, the value that a
    config without it stands for, where that is not the default.

    Raises UserError: a field is unknown, missing, of another type or out of range; it is named.
    """
    if not isinstance(fields, Mapping):
        raise UserError(f"{kind.__name__}: expected an object of fields, got {fields!r}")
    values = dict(before or {})
    for name, value in fields.items():
        today = (renamed or {}).get(name, name)
        if today != name and today in fields:
            raise UserError(f"{kind.__name__}: {name!r} is the old name of {today!r}; keep one")
        values[today] = value
    try:
        config = _adapter(kind).validate_json(json.dumps(values), strict=True)
    except pydantic.ValidationError as error:
        raise UserError(_message(kind, error)) from None
    known = list(_paths(to_json(config)))
    for name in _paths(values):
        if name not in known:
            raise UserError(
                f"unknown {kind.__name__} field {name!r}{did_you_mean(name, known)}: it is "
                "misspelt, or written by another version of griffin-lm than this one, whose "
                f"fields are: {', '.join(known)}"
            )
    return config


@functools.cache
def _adapter(kind: type) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind)


def _paths(fields: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The names of all fields; those of a nested config after a dot."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def _message(kind: type, error: pydantic.ValidationError) -> str:
    """What is wrong with the first field; of missing ones all are named."""
    problems = error.errors(include_url=False)
    missing = [problem for problem in problems if problem["type"] == "missing"]
    if missing:
        names = (".".join(map(str, problem["loc"])) for problem in missing)
        return f"{kind.__name__} lacks the fields: " + ", ".join(names)
    first = problems[0]
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, UserError):  # the config's own check, which names the field
        return str(raised)
    name = ".".join(map(str, first["loc"]))
    return f"{kind.__name__}: {name}={first['input']!r}: {first['msg']}"
