"""A response's request as the chat that answers it."""

import pytest
from pydantic_core import PydanticCustomError

from serving.http.body import parse_value
from serving.http.protocol import RequestError
from serving.http.response_protocol import ResponsesRequest, messages_of


def request(**fields) -> ResponsesRequest:
    return parse_value({"input": "Hi", **fields}, ResponsesRequest)


def test_as_a_chat():
    form = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    body = request(
        instructions="Be brief.",
        max_output_tokens=5,
        temperature=0.5,
        seed=3,
        logit_bias={"5": 1.0},
        text={"format": form},
        tools=[tool],
        tool_choice={"type": "function", "name": "f"},
        store=False,
        truncation="disabled",
        include=[],
    )
    assert body.as_chat([{"role": "user", "content": "before"}]) == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "before"},
            {"role": "user", "content": "Hi"},
        ],
        "max_completion_tokens": 5,
        "temperature": 0.5,
        "seed": 3,
        "logit_bias": {"5": 1.0},
        "store": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "object"}},
        },
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "parameters": {"type": "object"}, "strict": True},
            }
        ],
        "parallel_tool_calls": None,
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }
    assert not body.stored
    assert request().stored


def test_items_as_messages():
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "message", "role": "assistant", "content": "b"},
        call,
        call,
        {"type": "function_call_output", "call_id": "c", "output": "d"},
        call,
    ]
    told = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert messages_of(items) == [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "b", "tool_calls": [told, told]},
        {"role": "tool", "tool_call_id": "c", "content": "d"},
        {"role": "assistant", "content": None, "tool_calls": [told]},
    ]
    for item, param in (
        ({"type": "reasoning"}, "input.0.type"),
        ({"role": "user", "content": [{"type": "input_image"}]}, "input.0.content"),
    ):
        with pytest.raises(PydanticCustomError) as caught:
            messages_of([item])
        assert caught.value.context is not None
        assert caught.value.context["param"] == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"n": 2}, "n"),
        ({"background": True}, "background"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_refused(fields, param):
    with pytest.raises(RequestError) as caught:
        request(**fields)
    assert caught.value.body.error.param == param
