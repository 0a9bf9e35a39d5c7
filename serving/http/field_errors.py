# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a field, in words for whoever wrote the request.

Pydantic's own messages speak of Python ("a valid dictionary or instance of ResponseFormat"). Here
a value is called by JSON's name, and every message says what was expected and what was given.
"""

import json
from collections.abc import Mapping
from typing import Any

_LONGEST = 100  # characters of a value that are shown
_JSON_NAMES = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "literal_error": "{expected}",
}


def json_kind(value: Any) -> str:
    """What JSON calls such a value, with an article."""
    return _JSON_NAMES[type(value)]


def field_message(error: Mapping[str, Any], field: str | None) -> str:
    """One of pydantic's errors as a sentence. field: its path, None for the whole body.

    A message of a validator of ours stays as it is; what it was given is added unless it says so.
    """
    kind, given, context = error["type"], error.get("input"), error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown field {field!r}"
    name = "the body" if field is None else repr(field)
    if kind in _EXPECTED:
        numbers = {k: f"{v:g}" if isinstance(v, float) else v for k, v in context.items()}
        expected = _EXPECTED[kind].format(**numbers)
        if kind == "literal_error" and expected in ("True", "False"):
            expected = expected.lower()
        return f"{name}: expected {expected}, got {_shown(given, counted='too_' in kind)}"
    message = error["msg"]
    if isinstance(given, int | float | str) and ", got " not in message:
        message = f"{message}, got {_shown(given)}"
    return f"{name}: {message}"


def _shown(value: Any, *, counted: bool = False) -> str:
    """A number, a boolean or a short string as JSON; of the others kind or length."""
    if counted and isinstance(value, list | dict):
        return str(len(value))
    if isinstance(value, list | dict) or value is None:
        return json_kind(value)
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= _LONGEST and not (counted and value):
        return text
    return f"{len(value)} characters" if isinstance(value, str) else "a longer number"
