# SPDX-License-Identifier: Apache-2.0
"""Messages as clients and files have them, and what is none."""

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat import encode_chat
from recurrentgemma.text.chat_messages import checked_messages
from tests.recurrentgemma.text.seams import KINDS


def test_parts_are_one_text():
    parts = [{"type": "text", "text": "Who"}, {"type": "text", "text": "?", "cache": None}]
    assert checked_messages([{"role": "user", "content": parts}]) == [
        {"role": "user", "content": "Who?"}
    ]
    tokenizer = KINDS["bytes"]()
    assert encode_chat(tokenizer, [{"role": "user", "content": parts}]) == encode_chat(
        tokenizer, [{"role": "user", "content": "Who?"}]
    )


def test_what_openai_sends_beside_the_content():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    [message] = checked_messages(
        [{"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}]
    )
    assert message == {
        "role": "assistant",
        "tool_calls": [call | {"function": {"name": "f", "arguments": {"a": 1}}}],
    }
    [message] = checked_messages([{"role": "assistant", "content": "", "reasoning": "Hm"}])
    assert message["reasoning_content"] == message["thinking"] == "Hm"


def called(arguments: str) -> list[dict]:
    """A call of a tool, whose arguments are JSON in a text."""
    calls = [{"type": "function", "function": {"name": "f", "arguments": arguments}}]
    return [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": calls}]


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def test_arguments_that_are_no_json_stay_a_text():
    for arguments in ("{", "[" * 100_000):
        assert checked_messages(called(arguments))[1]["tool_calls"][0]["function"]["arguments"] == (
            arguments
        )


CONTENT, EXTRA, CALLS = "messages.0.content", "messages.0.x", "messages.1.tool_calls"
BAD = {
    "none": ([], "at least one message", "messages"),
    "a text": (["Hi"], "message 0 is 'Hi': expected", "messages.0"),
    "no role": ([{"content": "a"}], "has the role None", "messages.0.role"),
    "no content": ([{"role": "user"}], "has content None: expected a string", "messages.0.content"),
    "an image": (
        [{"role": "user", "content": [{"type": "text", "text": ""}, {"type": "image_url"}]}],
        "part of type 'image_url': this model reads text only",
        "messages.0.content.1",
    ),
    "no part": (
        [{"role": "user", "content": ["a"]}],
        "a part 'a': expected",
        "messages.0.content.0",
    ),
    "no parts": ([{"role": "user", "content": []}], r"has content \[\]", "messages.0.content"),
    "half a character": ([{"role": "user", "content": "\ud800"}], "half of a character", CONTENT),
    "an object": ([{"role": "user", "content": "a", "x": object()}], "expected the values", EXTRA),
    "half a name": ([{"role": "user", "content": "a", "x": {"\ud800": 1}}], "half of a", EXTRA),
    "nested deeply": ([{"role": "user", "content": "a", "x": nested(900)}], "100 deep", EXTRA),
    "half a character in arguments": (called('{"a": "\\ud800"}'), "half of a character", CALLS),
    "arguments nested deeply": (called("[" * 900 + "]" * 900), "100 deep", CALLS),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_messages_name_their_field(case: str):
    messages, message, field = BAD[case]
    with pytest.raises(UserError, match=message) as caught:
        checked_messages(messages)
    assert caught.value.field == field
