"""Responses through the real client: created, streamed, gone on from, retrieved, deleted."""

import json
from typing import Any

import httpx
import openai
import pytest

from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.chat import use_template
from serving.http.server import create_app

TEMPLATE = (
    "{% if tools %}{{ tools | tojson }} <tool_call>{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ m.tool_calls }}\n{% endfor %}>"
)
ASK: dict[str, Any] = {"model": "griffin", "max_output_tokens": 12, "temperature": 1.0}
SEED = {"extra_body": {"seed": 4}}


@pytest.fixture
def url(griffin, monkeypatch, running_thread, running_server):
    tokenizer = ByteTokenizer()
    use_template(tokenizer, TEMPLATE)
    monkeypatch.setattr(griffin.lm, "tokenizer", tokenizer)
    with (
        running_thread(lambda: griffin, 8) as thread,
        running_server(create_app(thread, model_name="griffin")) as url,
    ):
        yield url


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_conversation(client, griffin):
    """It answers as lm.chat with all the messages, without the instructions of before."""
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 1.0, "seed": 4}
    first = client.responses.create(**ASK, input="Hi", instructions="Be brief.", **SEED)
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}
    assert first.output_text == griffin.lm.chat([system, user], **options)
    assert (first.status, first.object) in {("completed", "response"), ("incomplete", "response")}
    second = client.responses.create(
        **ASK, input="And?", previous_response_id=first.id, metadata={"a": "b"}, **SEED
    )
    answer = {"role": "assistant", "content": first.output_text}
    turns = [user, answer, {"role": "user", "content": "And?"}]
    assert second.output_text == griffin.lm.chat(turns, **options)
    assert second.previous_response_id == first.id
    assert client.responses.retrieve(second.id) == second
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match="was not stored"):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(**ASK, input="a", previous_response_id=first.id)
    assert caught.value.param == "previous_response_id"
    unstored = client.responses.create(**ASK, input="Hi", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unstored.id)


def test_a_stream_ends_with_the_whole(client):
    whole = client.responses.create(**ASK, input="Hi", **SEED)
    events = list(client.responses.create(**ASK, input="Hi", stream=True, **SEED))
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == events[-1].response.output_text == whole.output_text
    assert events[-1].response.usage == whole.usage
    assert client.responses.retrieve(events[0].response.id) == events[-1].response


def test_a_schema(client):
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
        "x-guidance": {"whitespace_flexible": False},  # a model that knows nothing writes a lot
    }
    form = {"type": "json_schema", "name": "city", "schema": schema, "strict": True}
    ask = ASK | {"max_output_tokens": 300}
    answer = client.responses.create(**ask, input="Where?", text={"format": form})
    assert json.loads(answer.output_text)["city"] in ("Rome", "Oslo")
    tool: Any = {"type": "function", "name": "go", "parameters": schema, "strict": True}
    called = client.responses.create(**ask, input="Go", tools=[tool], tool_choice="required")
    call = called.output[0]
    assert (call.type, call.name) == ("function_call", "go")
    assert json.loads(call.arguments)["city"] in ("Rome", "Oslo")
    told: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "There."}
    after = client.responses.create(**ASK, input=[told], previous_response_id=called.id)
    assert after.output[0].type == "message"


def test_what_is_refused(url):
    for fields, param in (
        ({"input": [{"type": "reasoning"}]}, "input.0.type"),
        ({"input": [{"role": 5, "content": "a"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": "a"}, {"role": "user", "content": 7}],
          "instructions": "Be brief."}, "input.1.content"),
        ({"input": [{"type": "function_call", "name": "go", "arguments": "{}", "call_id": "1"},
                    {"type": "function_call", "name": "go", "arguments": "{}", "call_id": "2"},
                    {"type": "function_call_output", "call_id": "1", "output": 7}]}, "input.2"),
        ({"input": "a", "max_output_tokens": 2, "min_tokens": 3}, None),
        ({"input": "a", "text": {"format": {"type": "json_schema", "schema": {"type": 5}}}},
         "text.format.schema"),
        ({"input": "a", "unheard_of": 1}, "unheard_of"),
    ):  # fmt: skip
        answer = httpx.post(f"{url}/v1/responses", json=fields, timeout=30)
        assert answer.status_code == 400, answer.text
        if param is not None:
            assert answer.json()["error"]["param"] == param
    assert httpx.delete(f"{url}/v1/responses/resp_1").status_code == 404


def test_a_stream_that_fails_says_so(url, griffin, monkeypatch):
    def fail():
        raise RuntimeError("the device is gone")

    with httpx.stream(
        "POST",
        f"{url}/v1/responses",
        json={"input": "a", "stream": True, "max_output_tokens": 10**6, "ignore_eos": True},
        timeout=60,
    ) as answer:
        lines = answer.iter_lines()
        while "output_text.delta" not in next(lines):
            pass  # until it has a slot
        monkeypatch.setattr(griffin, "step", fail)
        told = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    (sequence,) = [sequence for sequence in griffin._running if sequence is not None]
    griffin.cancel(sequence.id)
    assert not griffin.busy  # or every test after this one fails
    assert told[-1]["type"] == "response.failed"
    assert told[-1]["response"]["error"]["code"] == "unavailable"
