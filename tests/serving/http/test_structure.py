"""The form that a request asks for is the form that its answer has."""

import json

import httpx
import pytest

from recurrentgemma.errors import UserError
from serving.http.answers import read_questions
from serving.http.chat_answers import read_chat
from serving.http.chat_protocol import ChatRequest
from serving.http.protocol import CompletionRequest
from serving.http.server import create_app

SCHEMA = {
    "type": "object",
    "properties": {"n": {"enum": [1, 22, 333]}, "b": {"type": "boolean"}},
    "required": ["n", "b"],
    "additionalProperties": False,
}
FORMS = {
    "schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "s", "schema": SCHEMA, "strict": True},
        }
    },
    "vllm": {"structured_outputs": {"json": SCHEMA}},
    "choice": {"structured_outputs": {"choice": ['{"n": 1, "b": true}', '{"n": 22, "b": false}']}},
}


def answers(engine, questions) -> list[str]:
    texts = dict.fromkeys(engine.submit_all(list(questions.requests)), "")
    while engine.busy:
        for event in engine.step():
            texts[event.request_id] += event.text
    return list(texts.values())


@pytest.mark.parametrize("form", FORMS)
def test_completions_and_chats_have_the_form(griffin, form):
    asked = FORMS[form] | {"n": 2, "seed": 4, "max_tokens": 99, "temperature": 9.0}
    completion = CompletionRequest.model_validate({"prompt": "a"} | asked)
    messages = [{"role": "user", "content": "a"}]
    chat = ChatRequest.model_validate({"messages": messages} | asked)
    texts = answers(griffin, read_questions(completion, griffin))
    texts += answers(griffin, read_chat(chat, griffin))
    for text in texts:
        answer = json.loads(text)
        assert answer["n"] in (1, 22, 333)
        assert isinstance(answer["b"], bool)
    assert len(set(texts)) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_have_its_form_is_an_error(
    griffin, running_thread, running_server, stream
):
    body = {"prompt": "a", "max_tokens": 6, "stream": stream}
    body["structured_outputs"] = {"regex": "a{1000000}"}
    with running_thread(lambda: griffin, 4) as thread:
        app = create_app(thread, model_name="griffin")
        with running_server(app) as url, httpx.Client(base_url=url, timeout=60) as client:
            answer = client.post("/v1/completions", json=body)
            assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 200
    if stream:
        *_, last = answer.text.strip().split("\n\n")
        failure = json.loads(last.removeprefix("data: "))["error"]
    else:
        assert answer.status_code == 422
        failure = answer.json()["error"]
    assert (failure["code"], failure["param"]) == ("constraint_failed", "structured_outputs.regex")


def test_any_json_object(griffin):
    """What a random model writes may have no end; what there is of it begins one."""
    body = {"prompt": "a", "response_format": {"type": "json_object"}, "max_tokens": 20}
    (text,) = answers(griffin, read_questions(CompletionRequest.model_validate(body), griffin))
    assert text.lstrip().startswith("{")


def test_a_text_is_any_text(griffin):
    body = {"prompt": "a", "response_format": {"type": "text"}}
    (request,) = read_questions(CompletionRequest.model_validate(body), griffin).requests
    assert request.constraint is None


def test_a_form_that_is_none(griffin):
    body = {"prompt": "a", "structured_outputs": {"regex": "("}}
    with pytest.raises(UserError, match="the regular expression cannot be kept to") as caught:
        read_questions(CompletionRequest.model_validate(body), griffin)
    assert caught.value.field == "structured_outputs.regex"
