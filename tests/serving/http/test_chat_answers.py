# SPDX-License-Identifier: Apache-2.0
"""From messages to the engine's requests, and from its events to the deltas of an answer."""

import dataclasses

import pytest

from recurrentgemma.errors import TemplateError, UserError
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.chat import encode_chat, use_template
from serving.engine.engine import Engine
from serving.engine.request import Event, TokenScore
from serving.http.chat_answers import ChatAnswer, read_chat
from serving.http.chat_protocol import MAX_TOKENS, ChatRequest

MESSAGES = [{"role": "user", "content": "Hi"}]


def questions(engine, **fields):
    return read_chat(ChatRequest.model_validate({"messages": MESSAGES} | fields), engine)


def test_messages_become_the_tokens_of_lm_chat(griffin):
    asked = questions(griffin, n=2, seed=7, max_tokens=5, logprobs=True, top_logprobs=2)
    first, second = asked.requests
    assert list(first.prompt) == encode_chat(griffin.lm.tokenizer, MESSAGES)
    assert first.prompt is second.prompt
    assert (first.sampling.seed, second.sampling.seed) == (7, 8)
    assert dataclasses.replace(first.sampling, seed=8) == second.sampling
    assert (first.sampling.max_tokens, first.logprobs) == (5, 2)
    assert questions(griffin).requests[0].sampling.max_tokens == MAX_TOKENS
    assert questions(griffin).requests[0].logprobs is None


def test_an_answer_that_is_gone_on_with(griffin):
    prefill = {"role": "assistant", "content": "Pa"}
    asked = questions(griffin, messages=[*MESSAGES, prefill], continue_final_message=True)
    prompt = encode_chat(griffin.lm.tokenizer, MESSAGES)
    assert list(asked.requests[0].prompt) == [*prompt, *b"Pa"]


def test_the_length_that_is_left(language_model):
    """Global attention holds 128 tokens: an answer without a length takes what is left."""
    engine = Engine(language_model("mqa"), slots=1)
    asked = questions(engine).requests[0]
    assert asked.sampling.max_tokens == 128 - len(asked.prompt) + 1
    with pytest.raises(UserError, match="context_length=128") as caught:
        questions(engine, max_tokens=128)
    assert caught.value.field == "max_tokens"
    with pytest.raises(UserError, match="context_length=128") as caught:
        questions(engine, messages=[{"role": "user", "content": "a" * 200}])
    assert caught.value.field == "messages"


@pytest.mark.parametrize("without", ["tokenizer", "format"])
def test_what_a_chat_needs(language_model, without):
    tokenizer = None if without == "tokenizer" else ByteTokenizer()
    if tokenizer is not None:
        tokenizer.control_tokens = {}
    engine = Engine(language_model("griffin", tokenizer), slots=1)
    with pytest.raises(UserError, match=r"/v1/completions|--chat-template FILE") as caught:
        questions(engine)
    assert caught.value.field == "messages"


def test_tools_for_a_template_that_writes_them(language_model):
    tools = [{"type": "function", "function": {"name": "f"}}]
    tokenizer = ByteTokenizer()
    engine = Engine(language_model("griffin", tokenizer), slots=1)
    with pytest.raises(UserError, match="tools: Gemma's chat format has none") as caught:
        questions(engine, tools=tools)
    assert caught.value.field == "tools"
    use_template(tokenizer, "{{ tools | tojson }}{{ extra }}{{ messages[0].content }}")
    asked = questions(engine, tools=tools, chat_template_kwargs={"extra": "!"})
    written = b'[{"type": "function", "function": {"name": "f"}}]!Hi'
    assert list(asked.requests[0].prompt) == list(written)
    hidden = questions(engine, tools=tools, tool_choice="none").requests[0].prompt
    assert list(hidden) == list(b"nullHi")


BLAMED = {
    "chat_template_kwargs": ("{{ extra.name.first }}", {"chat_template_kwargs": {"extra": {}}}),
    "tools": (
        "{% for tool in tools or [] %}{{ tool.function.parameters.type }}{% endfor %}",
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
    ),
    "messages": (
        "{% if messages[0].tool_calls %}{{ messages[0].tool_calls[0].function.name }}{% endif %}",
        {"messages": [MESSAGES[0] | {"tool_calls": [{}]}]},
    ),
    None: (
        "{% if messages[0].content == 'Hi' %}{{ no.name }}{% endif %}",
        {"chat_template_kwargs": {"extra": 1}},
    ),
}


@pytest.mark.parametrize("field", BLAMED)
def test_who_is_to_blame_where_a_template_fails(language_model, field):
    """The request only where the template works without what it has beside texts."""
    tokenizer = ByteTokenizer()
    engine = Engine(language_model("griffin", tokenizer), slots=1)
    template, fields = BLAMED[field]
    guard = "{% if extra is not defined %}{% set extra = {'name': {}} %}{% endif %}"
    use_template(tokenizer, guard + template + "{{ messages[0].content }}")
    with pytest.raises(UserError, match="cannot write these messages") as caught:
        questions(engine, **fields)
    assert caught.value.field == field
    assert isinstance(caught.value, TemplateError) == (field is None)


def test_messages_that_are_too_much_for_a_template(language_model):
    tokenizer = ByteTokenizer()
    engine = Engine(language_model("griffin", tokenizer), slots=1)
    long = "{% set long = 'x' * (1000000 * messages[0].content | length) %}"
    use_template(tokenizer, long + "{{ messages[0].content }}")
    with pytest.raises(UserError, match=r"line 1: the chat template ") as caught:
        questions(engine, messages=[{"role": "user", "content": "a" * 100}])
    assert caught.value.field == "messages"
    assert not isinstance(caught.value, TemplateError)


def event(text: str, *tokens: int, **more) -> Event:
    scores = tuple(TokenScore(token_id=t, logprob=-0.5, top=((65, -0.25),)) for t in tokens)
    return Event(request_id=0, text=text, token_ids=tokens, scores=scores, **more)


EVENTS = [
    event("Pa", *b"Pa", num_generated=2),
    event("", 255, num_generated=3),
    event("", 260, num_generated=4, finish_reason="stop"),  # <end_of_turn>
]


def test_the_deltas_of_a_stream(griffin):
    asked = questions(griffin, logprobs=True, top_logprobs=1, return_token_ids=True)
    answer = ChatAnswer(asked, griffin, model="m")
    streamed = [c for e in EVENTS for c in answer.chunks(0, e, {})]
    chunks = [chunk.model_dump(exclude_unset=True) for chunk in streamed]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [c["delta"] for c in choices] == [
        {"role": "assistant", "content": ""}, {"content": "Pa"}, {"content": ""}, {},
    ]  # fmt: skip
    assert [c["finish_reason"] for c in choices] == [None, None, None, "stop"]
    assert choices[1]["token_ids"] == list(b"Pa")
    assert answer.last().model_dump()["usage"]["completion_tokens"] == 4
    assert choices[1]["logprobs"]["content"][0] == {
        "token": "P",
        "logprob": -0.5,
        "bytes": [80],
        "top_logprobs": [{"token": "A", "logprob": -0.25, "bytes": [65]}],
    }


def test_a_whole_answer_is_its_deltas(griffin):
    asked = questions(griffin, logprobs=True, return_token_ids=True)
    answer = ChatAnswer(asked, griffin, model="m")
    for one in EVENTS:
        answer.take(0, one)
    whole = answer.whole().model_dump(exclude_unset=True)
    choice = whole["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "Pa", "refusal": None}
    assert choice["finish_reason"] == "stop"
    tokens = choice["logprobs"]["content"]
    assert [(t["token"], t["bytes"]) for t in tokens] == [
        ("P", [80]), ("a", [97]), ("token_id:255", None),
    ]  # fmt: skip
    assert choice["token_ids"] == [*b"Pa", 255, 260]
    assert whole["prompt_token_ids"] == encode_chat(griffin.lm.tokenizer, MESSAGES)
    assert whole["usage"]["prompt_tokens"] == len(whole["prompt_token_ids"])
