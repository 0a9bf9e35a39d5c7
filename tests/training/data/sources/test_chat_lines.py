# SPDX-License-Identifier: Apache-2.0
"""Lines of prompts and responses, or of messages: how they are read, and what is none."""

import json
from pathlib import Path

import pytest

from training.data.sources.chat_lines import ChatLines
from training.data.sources.spec import parse_spec

TALK = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]


def lines_of(path: Path, *lines: object, options: str = "") -> ChatLines:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return ChatLines(parse_spec(f"chat:{path}{options}"))


def test_a_line_is_a_prompt_with_its_response_or_a_conversation(tmp_path: Path):
    line = {"prompt": "Hello", "response": "Hi", "more": 1}
    lines = lines_of(tmp_path / "a.jsonl", line, line)
    talks = lines_of(tmp_path / "c.jsonl", {"messages": TALK, "prompt": "?"})
    assert lines.messages(1) == talks.messages(0) == TALK
    assert lines[0] == talks[0] == "user: Hello\n\nassistant: Hi"
    assert lines.name(1) == f"{tmp_path}/a.jsonl:2"
    named = lines_of(
        tmp_path / "b.jsonl",
        {"q": {"text": "Hello"}, "a": "Hi", "messages": []},
        options="?prompt=q.text&response=a",
    )
    assert named.messages(0) == TALK


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "a"}, r"a.jsonl:1 has no field 'response'; .* \?prompt=NAME"),
        ({"body": "a"}, r"neither 'prompt' nor 'messages' .*; it has 'body'; .*\?prompt=NAME"),
        ({"prompt": "a", "response": 3}, "response is a int, expected a string"),
        ({"prompt": "a", "response": " "}, "a.jsonl:1: an answer is empty.*drop this line"),
        ({"messages": "a"}, "messages must be a list of objects"),
        ({"messages": [{"role": "user"}]}, "message 0 has content None: expected a string"),
        ([1], "expected a JSON object, found a list"),
    ],
)
def test_a_line_that_is_no_conversation_is_named(tmp_path: Path, line: object, message: str):
    with pytest.raises(ValueError, match=message):
        lines_of(tmp_path / "a.jsonl", line).messages(0)
