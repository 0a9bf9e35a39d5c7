"""What a body may not be: too large, not JSON, half a character anywhere, nested without end."""

import json

import httpx
import pytest

from serving.http import body
from serving.http.options import ServerOptions
from serving.http.protocol import CompletionRequest, RequestError
from serving.http.server import create_app

JSON = {"Content-Type": "application/json"}

HALVES = {  # the field that the error names
    "text": (r'{"prompt": "a\ud800"}', "prompt"),
    "second half": (r'{"prompt": ["ok", "\udc00"]}', "prompt.1"),
    "halves the wrong way round": (r'{"prompt": "\udc00\ud800"}', "prompt"),
    "stop": (r'{"prompt": "a", "stop": "\ud83d"}', "stop"),
    "one of the stops": (r'{"prompt": "a", "stop": ["b", "\ud83d!"]}', "stop.1"),
    "name": (r'{"prompt": "a", "\ud800": 1}', None),
    "nested name": (r'{"prompt": "a", "stream_options": {"\ud800": 1}}', "stream_options"),
    "model": (r'{"prompt": "a", "model": "\ud800"}', "model"),
    "user": (r'{"prompt": "a", "user": "\ud800"}', "user"),
    "deep": (r'{"prompt": "a", "metadata": {"a": [{"b": "\ud800"}]}}', "metadata.a.0.b"),
    "as bytes": (b'{"prompt": "a", "stop": "\xed\xa0\x80"}', "stop"),
    "a field unknown": (r'{"prompt": "a", "mine": {"c": "\ud800"}}', "mine.c"),
}


@pytest.mark.parametrize("case", HALVES)
def test_half_a_character_is_refused_wherever_it_is(ask, case):
    content, param = HALVES[case]
    answer = ask("POST", "/v1/completions", content=content, headers=JSON, timeout=60)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert "half of a character" in error["message"]


def test_whole_characters_are_taken_however_they_are_escaped(ask):
    content = r'{"prompt": "a", "stop": ["\ud83d\ude42", "🙂"], "user": "\u00e9"}'
    assert ask("POST", "/v1/completions", content=content, headers=JSON).status_code == 200


NESTED = {
    "prompt": '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "objects": '{"a": ' * 100_000 + "1" + "}" * 100_000,
    "without an end": "[" * 100_000,
}


@pytest.mark.parametrize("case", NESTED)
def test_json_nested_thousands_deep(ask, case):
    answer = ask("POST", "/v1/completions", content=NESTED[case], headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "the body is nested too deeply"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt": "a\xff"}', "invalid unicode"),
        (b"9" * 5000, "number out of range"),
        (b'{"prompt": "a",}', "trailing comma"),
    ],
)
def test_what_is_no_json(ask, content, message):
    answer = ask("POST", "/v1/completions", content=content, headers=JSON, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/vnd.x+json"])
def test_types_that_are_json(ask, kind):
    answer = ask(
        "POST", "/v1/completions", content='{"prompt": "a"}', headers={"Content-Type": kind}
    )
    assert answer.status_code == 200


def test_a_long_name_is_not_sent_back_whole(ask):
    answer = ask("POST", "/v1/completions", json={"prompt": "a", "x" * 10**6: 1})
    assert answer.status_code == 400
    assert len(answer.content) < 3000


def test_a_body_too_large(engine_thread, running_server):
    """Announced or not: the server reads no more of it than it takes."""
    app = create_app(engine_thread, model_name="fake", options=ServerOptions(max_body_mib=0.01))
    with running_server(app) as url:
        fits = json.dumps({"prompt": "a" * 10_000})
        for content in (b"x" * 20_000, iter([b"x" * 8_000] * 3)):
            answer = httpx.post(f"{url}/v1/completions", content=content, headers=JSON, timeout=60)
            assert answer.status_code == 413
            error = answer.json()["error"]
            assert error["message"].startswith("the body is larger than the 10485 bytes")
            assert (error["type"], error["code"]) == ("invalid_request_error", "body_too_large")
        answer = httpx.post(f"{url}/v1/completions", content=fits, headers=JSON, timeout=60)
        assert answer.status_code == 200


def test_a_bug_in_a_validator_is_no_mistake_of_the_user(monkeypatch):
    monkeypatch.setattr("serving.http.protocol._is_token", lambda value: int("bug"))
    with pytest.raises(ValueError, match="invalid literal"):
        body.parse(b'{"prompt": [1]}', CompletionRequest)
    monkeypatch.undo()
    with pytest.raises(RequestError):
        body.parse(b'{"prompt": [1.5]}', CompletionRequest)


def test_the_schema_of_an_endpoint_stands_alone():
    schema = body.json_schema(CompletionRequest)
    assert "$ref" not in json.dumps(schema)
    fields = schema["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert set(fields) == set(CompletionRequest.model_fields)
