# SPDX-License-Identifier: Apache-2.0
"""What a request's author reads of a bad field: what was expected, and what was given."""

import pytest
from pydantic import BaseModel, ValidationError

from serving.http.adapter_routes import LoadAdapter
from serving.http.chat_protocol import ChatRequest
from serving.http.field_errors import json_kind
from serving.http.protocol import CompletionRequest, error_from_validation


def message(body, model: type[BaseModel] = CompletionRequest) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    return error_from_validation(caught.value.errors()).body.error.message


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": "hot"}, "'temperature': expected a number, got \"hot\""),
        ({"temperature": True}, "'temperature': expected a number, got true"),
        ({"temperature": float("nan")}, "'temperature': expected a finite number, got NaN"),
        ({"temperature": -1}, "'temperature': expected 0 or more, got -1"),
        ({"top_p": 0}, "'top_p': expected more than 0, got 0"),
        ({"top_p": 2}, "'top_p': expected 1 or less, got 2"),
        ({"top_k": 1.5}, "'top_k': expected an integer, got 1.5"),
        ({"n": "2"}, "'n': expected an integer, got \"2\""),
        ({"stream": 1}, "'stream': expected true or false, got 1"),
        ({"user": []}, "'user': expected a string, got a list"),
        ({"stop": 5}, "'stop': expected a list, got 5"),
        ({"stop": ["a"] * 200}, "'stop': expected at most 128 items, got 200"),
        ({"stop": "a" * 1001}, "'stop.0': expected at most 1000 characters, got 1001 characters"),
        ({"user": 10**200}, "'user': expected a string, got a longer number"),
        ({"response_format": "json"}, "'response_format': expected an object, got \"json\""),
        (
            {"response_format": {"type": "xml"}},
            "'response_format.type': expected 'text', 'json_object' or 'json_schema', got \"xml\"",
        ),
        (
            {"structured_outputs": {"json_object": False}},
            "'structured_outputs.json_object': expected true, got false",
        ),
        (
            {"structured_outputs": {"choice": []}},
            "'structured_outputs.choice': expected at least 1 items, got 0",
        ),
        (
            {"stream": True, "stream_options": {"x": 1}},
            "unknown field 'stream_options.x'",
        ),
    ],
)
def test_what_was_expected_and_what_was_given(fields, expected):
    assert message({"prompt": "a"} | fields) == expected


def test_of_the_body_itself_and_of_names_that_are_empty():
    assert message([], LoadAdapter) == "the body: expected an object, got a list"
    body = {"lora_name": "", "lora_path": "p"}
    assert message(body, LoadAdapter) == "'lora_name': expected at least 1 characters, got \"\""


def test_a_validators_own_message_says_once_what_it_got():
    assert message({"prompt": 5}).endswith("token ids, got an integer")
    assert message({"prompt": "a", "logprobs": 5, "n": 0}).endswith("got 0")
    assert message({"messages": "hi"}, ChatRequest) == "'messages': expected a list, got \"hi\""


def test_values_have_their_json_names():
    assert [json_kind(v) for v in (None, {}, 1.5)] == ["null", "an object", "a number"]
