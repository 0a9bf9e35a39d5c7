# SPDX-License-Identifier: Apache-2.0
"""The forms that conversations have in other people's files, and one of them: ours.

| form                     | a record                                                            |
|--------------------------|---------------------------------------------------------------------|
| messages                 | {"messages": [{"role": "user", "content": "Hi"}, ...]}              |
| ShareGPT                 | {"conversations": [{"from": "human", "value": "Hi"}, ...]}          |
| Alpaca                   | {"instruction": "...", "input": "...", "output": "..."}             |
| prompt and response      | {"prompt": "...", "response": "..."}                                |
| prompt and completion    | {"prompt": "...", "completion": "..."}, texts or lists of messages  |
| question and answer      | {"question": "...", "answer": "..."}                                |

A list of messages is told by what its first item has (`role` and `content`, or `from` and `value`),
whichever of the names it stands under. `system` and `tools` beside a conversation belong to it.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat_messages import Message
from training.data.sources.json_lines import OF_AN_ARRAY

LISTS = ("messages", "conversations", "conversation")
ROLES = ("system", "developer", "user", "assistant", "model", "tool", "function")
_FROM = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
_PAIRS = (  # (what is asked, what belongs to it, what is answered)
    ("Alpaca", "instruction", "input", "output"),
    ("Alpaca", "instruction", "context", "response"),
    ("prompt and response", "prompt", "", "response"),
    ("prompt and completion", "prompt", "", "completion"),
    ("question and answer", "question", "", "answer"),
    ("question and answer", "query", "", "response"),
)
_PREFERENCES = ("chosen", "rejected")


class Talk(NamedTuple):
    """A conversation to learn from, and the tools that it speaks of."""

    messages: list[Message]
    tools: list[Any] | None = None


class Form(NamedTuple):
    """name: for people. read: from a record to its conversation."""

    name: str
    read: Callable[[Mapping[str, Any]], Talk]


def form_of(record: Any, *, listed: str = "") -> Form:
    """The form of a record. listed: the field that holds the list of messages, if it is said.

    Raises UserError: it has none that we know, or it holds preferences.
    """
    if not isinstance(record, Mapping):
        of_an_array = OF_AN_ARRAY if isinstance(record, list) else ""
        raise UserError(f"expected a JSON object, found a {type(record).__name__}{of_an_array}")
    for name in (listed,) if listed else LISTS:
        if name in record:
            return _list_form(name, record[name])
    if not listed and not _is_preference(record):
        for pair in _PAIRS:
            if pair[1] in record and pair[3] in record:
                return _pair_form(*pair)
    has = ", ".join(map(repr, record)) or "nothing"
    if not listed and _is_preference(record):
        raise UserError(
            f"has {has}: these are preferences between two answers, and fine-tuning learns from "
            f"one; where 'chosen' is a list of messages, ?messages=chosen (--messages chosen) "
            f"learns from it"
        )
    if "text" in record:
        raise UserError(
            f"has {has}: a text and no conversation; to go on training on texts use "
            f"`griffin train`, with --data.sources 'jsonl:FILE' or 'parquet:FILE'"
        )
    if "prompt" in record:
        raise UserError(
            f"has no field 'response'; it has {has}; name the fields with --prompt and --response, "
            f"or ?prompt=NAME&response=NAME"
        )
    if listed:
        raise UserError(f"has no field {listed!r}; it has {has}; name another with ?messages=NAME")
    raise UserError(
        f"has neither 'prompt' nor 'messages' nor another form of conversations; it has {has}; "
        f"name the fields with --prompt and --response, or ?prompt=NAME&response=NAME"
    )


def checked(talk: Talk) -> Talk:
    """Raises UserError: a role that is none, an empty turn, no answer."""
    answers = 0
    for number, message in enumerate(talk.messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise UserError(
                f"message {number} has the role {role!r}: expected one of {', '.join(ROLES)}"
            )
        if isinstance(content, str) and not content.strip() and "tool_calls" not in message:
            is_answer = role in ("assistant", "model")
            what = "an answer" if is_answer else f"message {number}, of {role!r},"
            raise UserError(
                f"{what} is empty, so there is nothing to learn{'' if is_answer else ' from'}; "
                f"drop this line"
            )
        answers += role in ("assistant", "model")
    if not answers:
        roles = ", ".join(str(message.get("role")) for message in talk.messages) or "no messages"
        raise UserError(f"no answer to learn from ({roles}): drop this line")
    return talk


def _is_preference(record: Mapping[str, Any]) -> bool:
    labelled = "completion" in record and isinstance(record.get("label"), bool)
    return all(name in record for name in _PREFERENCES) or labelled


def _list_form(name: str, items: Any) -> Form:
    first = items[0] if isinstance(items, list) and items else None
    if isinstance(first, Mapping) and "from" in first and "role" not in first:
        return Form("ShareGPT", lambda record: _with_context(record, _sharegpt(record, name)))
    return Form("messages", lambda record: _with_context(record, _messages(record, name)))


def _messages(record: Mapping[str, Any], name: str) -> list[Message]:
    items = record.get(name)
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise UserError(f"{name} must be a list of objects with role and content")
    for number, item in enumerate(items):
        if not isinstance(item.get("role"), str):
            raise UserError(f"message {number} has role {item.get('role')!r}: expected a string")
        content = item.get("content")
        if not isinstance(content, str | list) and not item.get("tool_calls"):
            raise UserError(
                f"message {number} has content {content!r}: expected a string, or a list of parts"
            )
    return [{k: v for k, v in item.items() if v is not None} for item in items]


def _sharegpt(record: Mapping[str, Any], name: str) -> list[Message]:
    items = record.get(name)
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise UserError(f"{name} must be a list of objects with from and value")
    messages = []
    for number, item in enumerate(items):
        role, value = item.get("from"), item.get("value")
        if not isinstance(role, str) or role not in _FROM:
            raise UserError(
                f"message {number} is from {role!r}: expected one of {', '.join(_FROM)}"
            )
        if not isinstance(value, str):
            raise UserError(f"message {number} has value {value!r}: expected a string")
        messages.append({"role": _FROM[role], "content": value})
    return messages


def _pair_form(name: str, asked: str, beside: str, answered: str) -> Form:
    def read(record: Mapping[str, Any]) -> Talk:
        parts = [record.get(field) for field in (asked, answered)]
        if name == "prompt and completion" and all(isinstance(part, list) for part in parts):
            messages = [m for field in (asked, answered) for m in _messages(record, field)]
            return _with_context(record, messages)
        for field, part in zip((asked, answered), parts, strict=True):
            if not isinstance(part, str):
                raise UserError(f"{field} is a {type(part).__name__}, expected a string")
        question, answer = parts
        more = record.get(beside) if beside else None
        if isinstance(more, str) and more.strip():
            question = f"{question}\n\n{more}"
        elif more is not None and not isinstance(more, str):
            raise UserError(f"{beside} is a {type(more).__name__}, expected a string")
        return _with_context(record, [*_history(record), *pair(question, answer)])

    return Form(name, read)


def pair(question: Any, answer: Any) -> list[Message]:
    """A prompt and its response."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _history(record: Mapping[str, Any]) -> list[Message]:
    """The turns before, as LLaMA-Factory keeps them: [[question, answer], ...]."""
    history = record.get("history") or []
    if not isinstance(history, list) or not all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)
        for turn in history
    ):
        raise UserError(f"history is {history!r}: expected a list of [question, answer]")
    return [message for turn in history for message in pair(*turn)]


def _with_context(record: Mapping[str, Any], messages: list[Message]) -> Talk:
    """With the system message and the tools that stand beside the conversation."""
    system, tools = record.get("system"), record.get("tools")
    if isinstance(system, str) and system.strip():
        messages = [{"role": "system", "content": system}, *messages]
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            raise UserError(f"tools is {tools[:60]!r}: expected JSON") from None
    if tools and not isinstance(tools, list):
        raise UserError(f"tools is a {type(tools).__name__}: expected a list")
    return Talk(messages, tools or None)
