"""A stream tells each item from its beginning to its end, and the whole response last."""

from types import SimpleNamespace

import numpy as np
import pytest

from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.chat import use_template
from serving.engine.request import Event, GenerationRequest
from serving.http.answers import Questions
from serving.http.body import parse_value
from serving.http.chat_protocol import ChatRequest
from serving.http.protocol import ErrorDetail
from serving.http.response_answers import ResponseAnswer
from serving.http.response_protocol import ResponsesRequest

TOOL = {"type": "function", "name": "f"}
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'


@pytest.fixture
def answer():
    """`answer(**fields of the request)`."""
    tokenizer = ByteTokenizer()
    use_template(tokenizer, "{{ tools }}<tool_call>{{ messages[0].content }}")

    def begin(**fields) -> ResponseAnswer:
        body = parse_value({"input": "Hi", **fields}, ResponsesRequest)
        chat = parse_value(body.as_chat([]), ChatRequest)
        request = GenerationRequest(prompt=np.array([1, 2, 3]), sampling=Sampling())
        questions = Questions(body=chat, requests=(request,), echoes=("",))
        engine = SimpleNamespace(lm=SimpleNamespace(tokenizer=tokenizer))
        return ResponseAnswer(body, questions, engine, model="m")  # type: ignore[arg-type]

    return begin


def event(text: str, count: int, reason=None) -> Event:
    return Event(request_id=0, text=text, num_generated=count, finish_reason=reason)


def test_a_message(answer):
    one = answer()
    told = [*one.begin(), *one.take(event("He", 1)), *one.take(event("y", 3, "stop"))]
    assert [t["type"].removeprefix("response.") for t in told] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done", "content_part.done"),
        *("output_item.done", "completed"),
    ]
    assert [t["sequence_number"] for t in told] == list(range(10))
    assert told[3]["part"]["text"] == ""  # as it was then
    assert told[0]["response"]["output"] == []
    response = told[-1]["response"]
    assert response["output"][0]["content"][0]["text"] == "Hey"
    assert response["status"] == response["output"][0]["status"] == "completed"
    assert response["usage"]["output_tokens"] == 3
    assert response["usage"]["input_tokens"] == 3
    assert one.messages == [{"role": "assistant", "content": "Hey"}]


def test_one_that_is_cut_and_an_empty_one(answer):
    cut = answer()
    *_, last = cut.take(event("He", 1, "length"))
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["output"][0]["status"] == "incomplete"
    empty = answer()
    *_, last = empty.take(event("", 1, "stop"))
    assert last["response"]["output"][0]["content"][0]["text"] == ""
    assert empty.messages == [{"role": "assistant", "content": ""}]


def test_text_and_calls(answer):
    one = answer(tools=[TOOL])
    told = list(one.take(event(f"See:\n{CALL}\n{CALL}", 9, "stop")))
    items = told[-1]["response"]["output"]
    assert [item["type"] for item in items] == ["message", "function_call", "function_call"]
    assert [item["arguments"] for item in items[1:]] == ['{"x": 1}'] * 2
    done = [t for t in told if t["type"] == "response.output_item.done"]
    assert [t["output_index"] for t in done] == [0, 1, 2]
    assert [t["item"] for t in done] == items
    (message,) = one.messages
    assert message["content"] == "See:"
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["f", "f"]


def test_one_that_fails(answer):
    one = answer()
    list(one.take(event("He", 1)))
    (told,) = one.fail(ErrorDetail(message="gone", type="server_error", code="unavailable"))
    assert told["type"] == "response.failed"
    assert told["response"]["error"] == {"code": "unavailable", "message": "gone"}
