"""What may be said of tools, and what a call looks like."""

import json

import pytest

from serving.http.body import parse_value
from serving.http.chat_protocol import ChatRequest
from serving.http.protocol import RequestError
from serving.http.tool_protocol import Tool, new_call

F = {"type": "function", "function": {"name": "f"}}
NAMED = {"type": "function", "function": {"name": "g"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [F, F]}, "tools"),
        ({"tool_choice": "required"}, "tools"),
        ({"tools": [F], "tool_choice": NAMED}, "tool_choice"),
        ({"tools": [F], "response_format": {"type": "json_object"}}, "tools"),
    ],
)
def test_refused(fields, param):
    with pytest.raises(RequestError) as caught:
        parse_value({"messages": [], **fields}, ChatRequest)
    assert caught.value.body.error.param == param


def test_what_a_template_and_a_grammar_see():
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "x": 1}}
    body = parse_value({"messages": [], "tools": [tool]}, ChatRequest)
    assert body.shown_tools == [tool]
    none = parse_value({"messages": [], "tools": [tool], "tool_choice": "none"}, ChatRequest)
    assert none.shown_tools is None
    schema = Tool.model_validate(F).call_schema("parameters")
    assert schema["properties"] == {"name": {"const": "f"}, "parameters": {"type": "object"}}


def test_a_call():
    call = new_call("f", {"é": 1})
    assert call.id is not None
    assert call.id.startswith("call_")
    assert json.loads(call.function.arguments) == {"é": 1}
