# SPDX-License-Identifier: Apache-2.0
"""The messages of a chat, checked: {"role": "user", "content": text}, in OpenAI's form.

A content may also be a list of parts, [{"type": "text", "text": text}, ...]: their texts, one after
the other, with nothing between. Other fields (`name`, `tool_calls`, `reasoning_content`, ...) are
for a chat template to read.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from recurrentgemma.errors import UserError

Message = Mapping[str, Any]
ANSWERS = ("assistant", "model")  # the roles that a model writes; the second is Gemma's name
DEEPEST = 100  # lists and objects inside one another in a message
_REASONING = ("reasoning_content", "thinking", "reasoning")  # transformers' names of one thing


def checked_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as plain values, with their contents as strings, without fields of null.

    Raises UserError, which names the field: none, one without a role, a content that is no text,
    half a character in a text.
    """
    if not messages:
        raise UserError(
            "a chat needs at least one message, such as {'role': 'user', ...}", field="messages"
        )
    return [_checked(message, number) for number, message in enumerate(messages)]


def plain_value(value: Any, depth: int = 0) -> Any:
    """A value in JSON's own types, which have no methods of their own. Raises UserError: it has no
    such form, or is nested too deeply to be walked."""
    if depth > DEEPEST:
        raise UserError(f"a chat holds a value nested more than {DEEPEST} deep: leave it out")
    if isinstance(value, str):
        check_text(value)
        return str.__str__(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {plain_value(str(key)): plain_value(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item, depth + 1) for item in value]
    raise UserError(f"a chat holds {value!r}: expected the values of JSON")


def check_text(text: str) -> None:
    """Raises ValueError: the text holds half a character, which no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"this is no text: its character {error.start} is {text[error.start]!r}, half of "
            "a character, as bytes that are not UTF-8 become; pass valid Unicode"
        ) from None


def _checked(message: Message, number: int) -> dict[str, Any]:
    field = f"messages.{number}"
    if not isinstance(message, Mapping):
        raise UserError(
            f"message {number} is {message!r}: expected {{'role': 'user', 'content': 'Hi'}}",
            field=field,
        )
    plain = {
        _plain(name, field): _plain(value, f"{field}.{name}")
        for name, value in message.items()
        if value is not None
    }
    role = plain.get("role")
    if not isinstance(role, str) or not role:
        raise UserError(
            f"message {number} has the role {role!r}: expected a name such as 'user'",
            field=f"{field}.role",
        )
    if "content" in plain or "tool_calls" not in plain:
        plain["content"] = _text(message.get("content"), number)
    if isinstance(plain.get("tool_calls"), list):
        calls = [_with_arguments(call) for call in plain["tool_calls"]]
        plain["tool_calls"] = _plain(calls, f"{field}.tool_calls")
    reasoning = next((plain[name] for name in _REASONING if name in plain), None)
    if reasoning is not None:
        plain = {"thinking": reasoning} | plain | {"reasoning_content": reasoning}
    return plain


def _plain(value: Any, field: str) -> Any:
    try:
        return plain_value(value)
    except UserError as error:
        raise UserError(str(error), field=field) from None


def _text(content: Any, number: int) -> str:
    field = f"messages.{number}.content"
    if isinstance(content, str):
        check_text(content)
        return content
    if not isinstance(content, list) or not content:
        raise UserError(
            f"message {number} has content {content!r}: expected a string, or a list of "
            f"{{'type': 'text', 'text': ...}}",
            field=field,
        )
    texts = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text" and isinstance(kind, str):
            raise UserError(
                f"message {number} has a part of type {kind!r}: this model reads text only; leave "
                f"it out",
                field=f"{field}.{place}",
            )
        text = part.get("text") if isinstance(part, Mapping) else None
        if kind is None or not isinstance(text, str):
            raise UserError(
                f"message {number} has a part {part!r}: expected {{'type': 'text', 'text': ...}}",
                field=f"{field}.{place}",
            )
        check_text(text)
        texts.append(text)
    return "".join(texts)


def _with_arguments(call: Any) -> Any:
    """A tool call whose arguments are an object: OpenAI sends them as JSON text, and templates
    expect the object."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}
