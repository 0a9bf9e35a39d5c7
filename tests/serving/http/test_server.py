"""OpenAI's completions API through the ASGI transport, over an engine without a model."""

import dataclasses
import json

import pytest

from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.chat import use_template


def complete(ask, **body):
    return ask("POST", "/v1/completions", json=body)


def usage(prompt: int, completion: int) -> dict:
    tokens = {"prompt_tokens": prompt, "completion_tokens": completion}
    cached = {"prompt_tokens_details": {"cached_tokens": 0}}
    return tokens | {"total_tokens": prompt + completion} | cached


def test_a_completion(ask):
    answer = complete(ask, model="fake", prompt="abc", max_tokens=5)
    assert answer.status_code == 200
    body = answer.json()
    assert body["object"] == "text_completion"
    assert body["model"] == "fake"
    assert body["id"].startswith("cmpl-")
    assert body["choices"] == [
        {"index": 0, "text": "abcab", "logprobs": None, "finish_reason": "length"}
    ]
    assert body["usage"] == usage(3, 5)


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("ab", ["aba"]),
        (["ab", "c"], ["aba", "ccc"]),
        ([97, 98], ["aba"]),
        ([[97, 98], [99]], ["aba", "ccc"]),
    ],
)
def test_every_form_of_prompt(ask, prompt, texts):
    body = complete(ask, prompt=prompt, max_tokens=3).json()
    assert [choice["text"] for choice in body["choices"]] == texts
    assert [choice["index"] for choice in body["choices"]] == list(range(len(texts)))
    assert body["usage"]["prompt_tokens"] == sum(len(set(text)) for text in texts)


def test_n_counts_each_prompt_once(ask):
    body = complete(ask, prompt=["ab", "c"], n=2, max_tokens=2).json()
    assert [choice["text"] for choice in body["choices"]] == ["ab", "ab", "cc", "cc"]
    assert body["usage"] == usage(3, 8)


def test_the_best_of_more_are_told(ask, fake_engine, monkeypatch):
    """By the mean log-probability of a token; all count."""
    likely = {1: -3.0, 2: -1.0, 3: -2.0, 4: -0.5}
    next_event = fake_engine._next

    def event_of(id):
        event = next_event(id)
        length = {4: 1}.get(id, 2)  # the likeliest by token, and by sum
        scores = [event.scores[0]._replace(logprob=likely[id])]
        reason = "stop" if event.num_generated == length else None
        if reason and id in fake_engine.live:
            del fake_engine.live[id]
        return dataclasses.replace(event, text=str(id), scores=tuple(scores), finish_reason=reason)

    monkeypatch.setattr(fake_engine, "_next", event_of)
    body = complete(ask, prompt=["ab", "c"], n=1, best_of=2, max_tokens=9).json()
    assert [choice["text"] for choice in body["choices"]] == ["22", "4"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["choices"][0]["logprobs"] is None
    assert body["usage"] == usage(3, 7)


def test_choices_take_consecutive_seeds_and_prompts_the_same(ask, fake_engine, monkeypatch):
    seen, submit_all = [], fake_engine.submit_all
    monkeypatch.setattr(fake_engine, "submit_all", lambda r: (seen.extend(r), submit_all(r))[1])
    complete(ask, prompt=["ab", "c"], n=2, seed=7, max_tokens=1)
    assert [request.sampling.seed for request in seen] == [7, 8, 7, 8]


def test_echo_with_logprobs_in_the_legacy_schema(ask):
    body = complete(ask, prompt="ab", echo=True, logprobs=1, max_tokens=1).json()
    choice = body["choices"][0]
    assert choice["text"] == "aba"
    assert choice["logprobs"] == {
        "tokens": ["a", "b", "a"],
        "token_logprobs": [None, -1.0, -0.5],
        "top_logprobs": [None, {"b": -1.0}, {"A": -0.25, "a": -0.5}],
        "text_offset": [0, 1, 2],
    }


def test_two_tokens_with_one_text_stay_apart(ask, fake_engine, monkeypatch):
    monkeypatch.setattr(fake_engine, "token_name", lambda id: "x")
    choice = complete(ask, prompt="a", logprobs=1, max_tokens=1).json()["choices"][0]
    assert choice["logprobs"]["top_logprobs"] == [{"x": -0.5, "token_id:65": -0.25}]


def test_token_ids_when_asked_for(ask):
    choice = complete(ask, prompt="ab", max_tokens=3, return_token_ids=True).json()["choices"][0]
    assert choice["token_ids"] == [97, 98, 97]
    assert choice["prompt_token_ids"] == [97, 98]


def test_a_stream_adds_up_to_the_whole(ask):
    asked = {"prompt": ["ab", "c"], "max_tokens": 4, "echo": True, "logprobs": 1, "n": 2}
    whole = complete(ask, **asked).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    answer = complete(ask, **asked, **options)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[-1]["choices"] == []
    assert chunks.pop()["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks)
    for choice in whole["choices"]:
        mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert len(mine) == 4
        assert "".join(c["text"] for c in mine) == choice["text"]
        assert [c["finish_reason"] for c in mine] == [None, None, None, "length"]
        for field, values in choice["logprobs"].items():
            assert [v for c in mine for v in c["logprobs"][field]] == values


def test_a_stream_without_usage_has_none(ask):
    assert "usage" not in complete(ask, prompt="a", max_tokens=2, stream=True).text


def test_fields_at_the_value_without_effect_are_taken(ask):
    neutral = {"best_of": 2, "n": 2, "suffix": None, "logit_bias": {}, "presence_penalty": 0}
    neutral |= {"repetition_penalty": 1.0, "ignore_eos": False, "min_tokens": 0, "top_k": -1}
    assert complete(ask, prompt="a", max_tokens=1, **neutral).status_code == 200
    nulls = {"max_tokens": None, "temperature": None, "stop": None, "stream": None, "user": None}
    body = complete(ask, prompt="a", **nulls).json()
    assert body["usage"]["completion_tokens"] == 16


def test_fields_that_never_change_an_answer_are_taken(ask, fake_engine):
    labels = {"user": "me", "store": True, "metadata": {"run": "7"}, "safety_identifier": "x"}
    stream = {"stream": True, "stream_options": {"include_obfuscation": True}}
    answer = complete(ask, prompt="ab", max_tokens=2, stop=list("vwxyz"), **labels, **stream)
    assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n")


BAD = {
    "missing prompt": ({"prompt": ...}, "prompt", "is missing"),
    "empty text": ({"prompt": ""}, "prompt", "the prompt is empty"),
    "empty list": ({"prompt": []}, "prompt", "the prompt is empty"),
    "empty row": ({"prompt": [[65], []]}, "prompt", "the prompt is empty"),
    "mixed list": ({"prompt": ["a", 1]}, "prompt", "a string, an integer"),
    "object prompt": ({"prompt": {"a": 1}}, "prompt", "got an object"),
    "boolean token": ({"prompt": [True]}, "prompt", "a boolean"),
    "token outside": ({"prompt": [5, 128]}, "prompt", "token 128 is outside the vocabulary of 128"),
    "huge token": ({"prompt": [2**70]}, "prompt", "outside the vocabulary"),
    "negative token": ({"prompt": [-1]}, "prompt", "token -1 is outside the vocabulary"),
    "unknown field": (
        {"max_token": 3},
        "max_token",
        "the fields are: best_of, echo, frequency_penalty,",
    ),
    "unsupported": ({"length_penalty": 0.5}, "length_penalty", "not supported"),
    "penalty": ({"frequency_penalty": -2.5}, "frequency_penalty", "expected -2 or more"),
    "best_of": ({"best_of": 1, "n": 2}, "best_of", "expected at least n, 2"),
    "best_of streamed": ({"best_of": 2, "stream": True}, "best_of", "cannot be streamed"),
    "best_of too many": ({"best_of": 5}, "best_of", "1 prompts x best_of=5 is more than the 4"),
    "no sessions": ({"session": "a"}, "session", "started with --sessions DIR"),
    "session and n": ({"session": "a", "n": 2}, "n", "goes on one way"),
    "user": ({"user": 5}, "user", "expected a string, got 5"),
    "false is not 0": ({"length_penalty": False}, "length_penalty", "not supported"),
    "ignore_eos": ({"ignore_eos": 1}, "ignore_eos", "expected true or false"),
    "logit bias": ({"logit_bias": {"5": 101}}, "logit_bias", "'5': expected a token id with"),
    "min_tokens": ({"min_tokens": 17}, "min_tokens", "expected at most max_tokens, 2"),
    "form": ({"response_format": {"type": "xml"}}, "response_format.type", "'json_schema'"),
    "no schema": ({"response_format": {"type": "json_schema"}}, "response_format", "is missing"),
    "no such form": ({"structured_outputs": {"yaml": 1}}, "structured_outputs.yaml", "unknown"),
    "two forms": (
        {"structured_outputs": {"regex": "a", "choice": ["a"]}},
        "structured_outputs",
        "expected one of json, json_object, regex",
    ),
    "a form twice": (
        {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
        "structured_outputs",
        "give one of them",
    ),
    "no constraints": (
        {"structured_outputs": {"regex": "a"}},
        "structured_outputs.regex",
        "cannot be held to a form",
    ),
    "stop tokens": ({"stop_token_ids": [1] * 17}, "stop_token_ids", "at most 16"),
    "max_tokens": ({"max_tokens": -1}, "max_tokens", "expected 0 or more, got -1"),
    "max_tokens text": ({"max_tokens": "5"}, "max_tokens", 'expected an integer, got "5"'),
    "max_tokens float": ({"max_tokens": 1.5}, "max_tokens", "expected an integer"),
    "max_tokens huge": ({"max_tokens": 2**31}, "max_tokens", "expected 2147483647 or less"),
    "temperature": ({"temperature": -0.1}, "temperature", "expected 0 or more"),
    "top_p": ({"top_p": 0}, "top_p", "expected more than 0"),
    "top_k": ({"top_k": -2}, "top_k", "expected -1 or more"),
    "min_p": ({"min_p": 1.1}, "min_p", "expected 1 or less"),
    "n": ({"n": 0}, "n", "expected 1 or more"),
    "too many": ({"n": 5}, "n", "1 prompts x n=5 is more than the 4 sequences"),
    "too many prompts": ({"prompt": list("abcde")}, "prompt", "5 prompts x n=1 is more"),
    "logprobs": ({"logprobs": 6}, "logprobs", "expected 5 or less, got 6"),
    "logprobs bool": ({"logprobs": True}, "logprobs", "expected an integer"),
    "many stops": ({"stop": ["a"] * 129}, "stop", "at most 128 items, got 129"),
    "long stop": ({"stop": "a" * 1001}, "stop.0", "at most 1000 characters, got 1001 characters"),
    "empty stop": ({"stop": ["a", ""]}, "stop", "stop string is empty"),
    "stop of ids": ({"stop": [5]}, "stop.0", "expected a string, got 5"),
    "stream text": ({"stream": "yes"}, "stream", "expected true or false"),
    "options alone": ({"stream_options": {"include_usage": True}}, "stream_options", "needs"),
    "options": ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown field"),
    "seed": ({"seed": 2**63}, "seed", "expected 9223372036854775807 or less"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_name_the_field(ask, case):
    change, param, message = BAD[case]
    body = {"prompt": "a", "max_tokens": 2} | change
    answer = complete(ask, **{k: v for k, v in body.items() if v is not ...})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert message in error["message"]
    assert error["code"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p"])
def test_numbers_that_are_not(ask, field, number):
    content = f'{{"prompt": "a", "{field}": {number}}}'
    answer = ask("POST", "/v1/completions", content=content, headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("content", "headers", "message"),
    [
        ("{", JSON, "the body is not JSON"),
        ("[1]", JSON, "must be a JSON object"),
        ("5", JSON, "must be a JSON object"),
        ("", JSON, "it is empty"),
        ('{"prompt": "a"}', {"Content-Type": "text/plain"}, "Content-Type: application/json"),
    ],
)
def test_bad_bodies(ask, content, headers, message):
    answer = ask("POST", "/v1/completions", content=content, headers=headers)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("error", [ValueError("a shape"), RuntimeError("the tokenizer")])
def test_a_bug_is_not_the_users_mistake(ask, fake_engine, monkeypatch, error):
    def broken(text: str):
        raise error

    monkeypatch.setattr(fake_engine, "tokens", broken)
    answer = complete(ask, prompt="a")
    assert answer.status_code == 500
    assert answer.json()["error"] == {
        "message": "this is the server's fault, not the request's: its log has the details",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }


def test_a_bug_while_streaming_is_told_in_the_stream(ask, fake_engine, monkeypatch, caplog):
    monkeypatch.setattr(fake_engine, "token_name", lambda id: {}[id])
    answer = complete(ask, prompt="a", logprobs=1, stream=True)
    *_, last = [line for line in answer.text.split("\n\n") if line]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "internal_error"
    assert "KeyError" in caplog.text
    assert complete(ask, prompt="a", max_tokens=1).status_code == 200


def test_another_model_and_another_path(ask):
    answer = complete(ask, model="gpt", prompt="a")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert "'fake'" in answer.json()["error"]["message"]
    assert ask("GET", "/v1/nothing").status_code == 404
    assert "Not Found" in ask("GET", "/v1/nothing").json()["error"]["message"]
    assert ask("GET", "/v1/completions").status_code == 405
    assert ask("GET", "/v1/completions").json()["error"]["type"] == "invalid_request_error"


def test_models_health_and_the_page(ask):
    assert ask("GET", "/v1/models").json()["data"][0]["id"] == "fake"
    assert ask("GET", "/v1/models/fake").json()["object"] == "model"
    assert ask("GET", "/v1/models/other").status_code == 404
    health = ask("GET", "/health")
    assert health.status_code == 200
    assert health.json() == {
        "status": "ok", "model": "fake", "slots": 2, "running": 0, "waiting": 0,
    }  # fmt: skip
    page = ask("GET", "/")
    assert page.headers["content-type"].startswith("text/html")


def test_an_answer_without_a_tokenizer(ask, fake_engine):
    fake_engine.lm.tokenizer = None
    choice = complete(ask, prompt=[65], max_tokens=2).json()["choices"][0]
    assert choice["token_ids"] == [65, 65]  # there is no other way to see the answer


@pytest.fixture
def chat(ask, fake_engine):
    """`chat("ab", **fields)`: of a template that writes the text of the last message."""
    tokenizer = ByteTokenizer()
    use_template(tokenizer, "{{ messages[-1].content }}")
    fake_engine.lm.tokenizer = tokenizer

    def send(content, **fields):
        messages = [{"role": "user", "content": content}]
        return ask("POST", "/v1/chat/completions", json={"messages": messages} | fields)

    return send


def test_a_chat(chat):
    answer = chat("abc", model="fake", max_tokens=5)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["object"], body["model"]) == ("chat.completion", "fake")
    assert body["id"].startswith("chatcmpl-")
    message = {"role": "assistant", "content": "abcab", "refusal": None}
    assert body["choices"] == [
        {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    ]
    assert body["usage"] == usage(3, 5)
    parts = [{"type": "text", "text": "ab"}, {"type": "text", "text": "c"}]
    assert chat(parts, max_completion_tokens=5).json()["choices"] == body["choices"]


def test_a_streamed_chat_adds_up_to_the_whole(chat):
    asked = {"max_tokens": 4, "n": 2, "logprobs": True, "top_logprobs": 1, "seed": 1}
    whole = chat("ab", **asked).json()
    answer = chat("ab", **asked, stream=True, stream_options={"include_usage": True})
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    assert len({chunk["id"] for chunk in chunks}) == 1
    last = chunks.pop()
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert all(chunk["usage"] is None for chunk in chunks)
    for choice in whole["choices"]:
        mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        text = "".join(c["delta"].get("content", "") for c in mine)
        assert text == choice["message"]["content"]
        assert [c["finish_reason"] for c in mine] == [None] * 4 + ["length"]
        told = [t for c in mine for t in (c["logprobs"] or {"content": []})["content"]]
        assert told == choice["logprobs"]["content"]


TOOL = {"type": "function", "function": {"name": "f"}}


def test_bad_chats_name_the_field(chat, ask, fake_engine):
    image = [{"type": "image_url", "image_url": {"url": "data:"}}]
    for content, fields, param, message in (
        (image, {}, "messages.0.content.0", "part of type 'image_url'"),
        (None, {}, "messages.0.content", "expected a string"),
        ("a", {"response_format": {"type": "json_object"}}, "response_format", "held to a form"),
        ("a", {"tools": [TOOL]}, "tools", "cannot write tools"),
        ("a", {"messages": []}, "messages", "at least one message"),
        ("a", {"n": 5}, "n", "more than the 4 sequences"),
        ("é", {}, "messages", "outside the vocabulary"),
    ):
        answer = chat(content, **fields)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == param
        assert message in answer.json()["error"]["message"]
    assert chat("a", model="gpt").status_code == 404
    use_template(fake_engine.lm.tokenizer, "{{ raise_exception('no') }}")
    refused = chat("a")
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].endswith("the chat template says: no")


def test_a_mistake_in_the_template_is_the_servers(chat, fake_engine):
    use_template(
        fake_engine.lm.tokenizer, "{% if messages[-1].content == 'b' %}\n{{ no.name }}{% endif %}a"
    )
    answer = chat("b")
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("chat_template_error", None)
    assert "line 2: the chat template cannot write these messages" in error["message"]
