# SPDX-License-Identifier: Apache-2.0
"""Chats as pydantic models: what is taken, what is refused, by which name."""

import pytest
from pydantic import ValidationError

from serving.http.chat_protocol import ChatRequest
from serving.http.protocol import RequestError, error_from_validation

MESSAGES = [{"role": "user", "content": "Hi"}]


def chat(**fields) -> ChatRequest:
    return ChatRequest.model_validate({"messages": MESSAGES} | fields)


def error(**fields) -> RequestError:
    with pytest.raises(ValidationError) as caught:
        chat(**fields)
    return error_from_validation(caught.value.errors())


def test_what_clients_send_and_changes_nothing():
    neutral = {"response_format": {"type": "text"}, "tool_choice": "auto", "functions": []}
    neutral |= {"modalities": ["text"], "service_tier": "auto", "presence_penalty": 0.0}
    neutral |= {"user": "me", "store": False, "tools": None}
    assert chat(**neutral) == chat(tool_choice="auto", user="me", store=False)
    assert chat(**dict.fromkeys(ChatRequest.model_fields) | {"messages": MESSAGES}) == chat()


def test_both_names_of_the_most_tokens():
    assert chat().most_tokens is None
    assert chat(max_tokens=3).most_tokens == chat(max_completion_tokens=3).most_tokens == 3
    assert chat(max_tokens=3, max_completion_tokens=3).most_tokens == 3


def test_tools_that_are_not_to_be_used_are_not_shown():
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert chat(tools=tools).shown_tools == tools
    assert chat(tools=tools, tool_choice="none").shown_tools is None


BAD = {
    "no messages": ({"messages": ...}, "messages", "expected a list"),
    "a text": ({"messages": "Hi"}, "messages", "expected a list"),
    "a list of texts": ({"messages": ["Hi"]}, "messages.0", "expected an object"),
    "a form": ({"response_format": {"type": "xml"}}, "response_format.type", "'json_schema'"),
    "functions": ({"functions": [{}]}, "functions", "not supported"),
    "forced": ({"tool_choice": "required"}, "tools", "there are no 'tools'"),
    "one tool": ({"tool_choice": {"type": "function"}}, "tool_choice", 'expected "auto"'),
    "another choice": ({"tool_choice": "any"}, "tool_choice", 'expected "auto"'),
    "two lengths": ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "two names"),
    "length": ({"max_completion_tokens": -1}, "max_completion_tokens", "expected 0 or more"),
    "top_logprobs": ({"top_logprobs": 2}, "top_logprobs", "needs 'logprobs'"),
    "many": ({"logprobs": True, "top_logprobs": 6}, "top_logprobs", "expected 5 or less"),
    "a number": ({"logprobs": 2}, "logprobs", "expected true or false"),
    "both": (
        {"continue_final_message": True, "add_generation_prompt": True},
        "continue_final_message",
        "give one of them",
    ),
    "neither": ({"add_generation_prompt": False}, "add_generation_prompt", "only with"),
    "a prompt": ({"prompt": "Hi"}, "prompt", "unknown field"),
    "n": ({"n": 0}, "n", "expected 1 or more"),
    "options": ({"stream_options": {}}, "stream_options", "needs 'stream'"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_error_names_its_field(case):
    fields, param, message = BAD[case]
    if fields.get("messages") is ...:
        fields = {"messages": 5}
    body = error(**fields).body.error
    assert (body.param, body.type) == (param, "invalid_request_error")
    assert message in body.message
