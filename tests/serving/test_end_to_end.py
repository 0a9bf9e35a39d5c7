"""A real model behind a real server, asked through the real `openai` client."""

import concurrent.futures
import json
from typing import Any

import httpx
import openai
import pytest

from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.chat import use_template
from serving.engine.engine import Engine
from serving.http.server import create_app


@pytest.fixture
def lm(griffin) -> LanguageModel:
    return griffin.lm


@pytest.fixture
def griffin_url(griffin, running_thread, running_server):
    with (
        running_thread(lambda: griffin, 64) as thread,
        running_server(create_app(thread, model_name="griffin")) as url,
    ):
        yield url


@pytest.fixture
def client(griffin_url):
    with openai.OpenAI(base_url=f"{griffin_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_concurrent_requests_answer_as_generate_does(client, lm):
    def ask(i: int) -> str:
        options = {"prompt": f"{'A' * (i % 5)}question {i}", "max_tokens": 5 + i, "seed": i}
        options |= {"model": "griffin", "temperature": 2.0, "top_p": 0.9, "stop": ["q"]}
        if i % 2:
            answer = client.completions.create(**options)
            return answer.choices[0].text
        stream = client.completions.create(**options, stream=True)
        return "".join(chunk.choices[0].text for chunk in stream)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(24)))
    for i, answer in enumerate(answers):
        prompt = f"{'A' * (i % 5)}question {i}"
        options = {"max_tokens": 5 + i, "temperature": 2.0, "top_p": 0.9, "seed": i, "stop": "q"}
        assert answer == lm.generate(prompt, **options)


def test_several_choices_take_the_seeds_that_follow(client, lm):
    answer = client.completions.create(
        model="griffin", prompt=["ab", "cd"], n=2, max_tokens=9, temperature=1.0, seed=3
    )
    expected = [
        lm.generate(prompt, max_tokens=9, temperature=1.0, seed=seed)
        for prompt in ("ab", "cd")
        for seed in (3, 4)
    ]
    assert [choice.text for choice in answer.choices] == expected
    assert answer.usage.prompt_tokens == 6  # a bos before each


def test_the_best_of_several(client, lm):
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 1.0, "ignore_eos": True}
    drawn = [lm.complete(["ab"], logprobs=0, seed=seed, **options)[0] for seed in range(3, 7)]
    best = sorted(drawn, key=lambda one: -sum(one.logprobs) / len(one.logprobs))
    del options["ignore_eos"]
    answer = client.completions.create(
        model="griffin", prompt="ab", n=2, best_of=4, seed=3, **options,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    assert [choice.text for choice in answer.choices] == [one.text for one in best[:2]]
    assert answer.usage.completion_tokens == 24


def test_the_openai_client_asks_for_a_schema(client):
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}, "far": {"type": "boolean"}},
        "required": ["city", "far"],
        "additionalProperties": False,
        "x-guidance": {"whitespace_flexible": False},  # a model that knows nothing writes a lot
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    messages: Any = [{"role": "user", "content": "Where?"}]
    answer = client.chat.completions.create(
        model="griffin", messages=messages, response_format=form, max_tokens=200
    )
    place = json.loads(answer.choices[0].message.content)
    assert place.keys() == {"city", "far"}


def test_what_the_evaluation_harness_asks(client, lm):
    """Its `local-completions` scores a continuation by the echo of context + continuation."""
    context, continuation = [258, 72, 105, 32], [116, 104, 101]
    answer = client.completions.create(
        model="griffin",
        prompt=[[*context, *continuation], [258, 72]],
        max_tokens=1,
        logprobs=1,
        echo=True,
        temperature=0,
        seed=1234,
    )
    logprobs = answer.choices[0].logprobs
    scores = lm.score([*context, *continuation])
    start = len(context)
    assert logprobs.tokens[start:-1] == ["t", "h", "e"]
    assert logprobs.token_logprobs[0] is None
    assert logprobs.token_logprobs[start:-1] == pytest.approx(scores[start - 1 :], abs=1e-5)
    for tops, score in zip(logprobs.top_logprobs[start:-1], scores[start - 1 :], strict=True):
        assert max(tops.values()) >= score - 1e-5
    assert len(answer.choices[1].logprobs.tokens) == 3


def test_a_stop_token_has_its_place_among_the_log_probabilities(client, lm):
    """The harness drops the last entry as the generated token: a stop token must be there too."""
    options = {"max_tokens": 1, "temperature": 2.0}
    seed = next(s for s in range(2000) if not lm.complete(["ab"], **options, seed=s)[0].tokens)
    answer = client.completions.create(
        model="griffin", prompt="ab", **options, seed=seed, logprobs=1, echo=True
    )
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason) == ("ab", "stop")
    assert choice.logprobs.tokens[1:3] == ["a", "b"]
    assert len(choice.logprobs.token_logprobs) == 4
    assert choice.logprobs.text_offset == [0, 0, 1, 2]
    assert answer.usage.completion_tokens == 1


def test_only_the_prompt_can_be_scored(client, lm):
    answer = client.completions.create(
        model="griffin", prompt="Hi there", max_tokens=0, logprobs=0, echo=True
    )
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason) == ("Hi there", "length")
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(lm.score("Hi there"), abs=1e-5)
    assert choice.logprobs.text_offset == [0, *range(8)]
    assert answer.usage.completion_tokens == 0


def test_a_stop_string_is_neither_shown_nor_begun(griffin_url, lm):
    options = {"max_tokens": 60, "temperature": 1.0}
    seed = next(s for s in range(50) if len(lm.generate("A", **options, seed=s)) > 50)
    whole = lm.generate("A", **options, seed=seed)
    stop = whole[30:33]
    expected = whole[: whole.index(stop)]
    body = {"prompt": "A", **options, "seed": seed, "stop": stop}
    body |= {"stream": True, "logprobs": 0, "stream_options": {"include_usage": True}}
    answer = httpx.post(f"{griffin_url}/v1/completions", json=body, timeout=60)
    chunks = [json.loads(line[6:]) for line in answer.text.split("\n\n")[:-2]]
    usage, choices = chunks.pop()["usage"], [chunk["choices"][0] for chunk in chunks]
    text = ""
    for choice in choices:
        text += choice["text"]
        assert expected.startswith(text)
        offsets = choice["logprobs"]["text_offset"]
        assert all(offset < len(text) for offset in offsets)
    assert text == expected
    assert choices[-1]["finish_reason"] == "stop"
    shown = sum(len(choice["logprobs"]["tokens"]) for choice in choices)
    assert shown < usage["completion_tokens"] <= 60  # the stop string was generated, so it counts


def test_leaving_frees_the_slot(griffin_url, griffin, wait_until):
    body = {"prompt": "a", "max_tokens": 10**9, "stream": True}
    for _ in range(5):  # of three slots
        with httpx.stream("POST", f"{griffin_url}/v1/completions", json=body, timeout=60) as answer:
            next(answer.iter_lines())
    wait_until(lambda: not griffin.busy)
    assert httpx.get(f"{griffin_url}/health").json()["waiting"] == 0


def test_what_the_engine_refuses(griffin_url):
    for prompt, message in [([261], "token 261 is outside the vocabulary of 261"), ([], "empty")]:
        answer = httpx.post(f"{griffin_url}/v1/completions", json={"prompt": prompt})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "prompt"
        assert message in answer.json()["error"]["message"]


def test_a_prompt_too_long(language_model, running_thread, running_server):
    """For global attention, and for --max-prompt."""
    engine = Engine(language_model("mqa"), slots=1, max_prompt=110)
    with (
        running_thread(lambda: engine, 1) as thread,
        running_server(create_app(thread, model_name="mqa")) as url,
    ):
        bodies = ({"prompt": [1] * 100, "max_tokens": 30}, {"prompt": "a" * 111, "max_tokens": 1})
        answers = [httpx.post(f"{url}/v1/completions", json=body) for body in bodies]
    for answer, message in zip(
        answers, ("context_length=128", "at most 110 are taken"), strict=True
    ):
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]
    assert answers[1].json()["error"]["param"] == "prompt"
    assert "--max-prompt" in answers[1].json()["error"]["message"]


def test_text_for_a_checkpoint_without_a_tokenizer(language_model, running_thread, running_server):
    engine = Engine(language_model("griffin", None), slots=1)
    with (
        running_thread(lambda: engine, 1) as thread,
        running_server(create_app(thread, model_name="griffin")) as url,
    ):
        answer = httpx.post(f"{url}/v1/completions", json={"prompt": "Hi"})
        assert answer.status_code == 400
        assert "send the prompt as token ids" in answer.json()["error"]["message"]


TEMPLATE = (  # the model's own, in which a turn is not Gemma's
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}: {{ m.content | trim }}"
    "<end_of_turn>{% endfor %}{% if add_generation_prompt %}<start_of_turn>assistant: {% endif %}"
)
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hello <end_of_turn>"}]},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Who?"},
]


@pytest.mark.parametrize("template", ["gemma", TEMPLATE], ids=["Gemma's", "its own"])
def test_the_openai_client_chats(language_model, running_thread, running_server, template):
    """Streamed or not it answers as lm.chat does, by the model's template."""
    tokenizer = ByteTokenizer()
    use_template(tokenizer, template)
    engine = Engine(language_model("griffin", tokenizer), slots=2)
    options: dict[str, Any] = {"max_tokens": 20, "temperature": 1.5, "seed": 5}
    expected = engine.lm.chat(MESSAGES, **options)
    assert expected
    with (
        running_thread(lambda: engine, 8) as thread,
        running_server(create_app(thread, model_name="griffin")) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        asked: Any = {"model": "griffin", "messages": MESSAGES, **options, "logprobs": True}
        answer = client.chat.completions.create(**asked, top_logprobs=2, n=2)
        first, second = answer.choices
        assert (first.message.role, first.message.content) == ("assistant", expected)
        other: dict[str, Any] = {**options, "seed": 6}
        assert second.message.content == engine.lm.chat(MESSAGES, **other)
        tokens = first.logprobs.content
        assert len(tokens) == len(tokenizer.encode(expected, bos=False)) or ("\ufffd" in expected)
        assert all(len(token.top_logprobs) == 2 for token in tokens)
        stream = client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
        *chunks, last = list(stream)
        assert last.usage == client.chat.completions.create(**asked).usage
        assert chunks[0].choices[0].delta.role == "assistant"
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == expected
        assert chunks[-1].choices[0].finish_reason in ("stop", "length")
        begun = [*MESSAGES, {"role": "assistant", "content": "I am"}]
        going_on = client.chat.completions.create(
            **asked | {"messages": begun}, extra_body={"continue_final_message": True}
        )
        ids = [*tokenizer.encode("I am", bos=False)]
        prompt_tokens = answer.usage.prompt_tokens + len(ids)
        assert going_on.usage.prompt_tokens == prompt_tokens
        image: Any = [{"type": "image_url", "image_url": {"url": "data:,"}}]
        with pytest.raises(openai.BadRequestError, match="reads text only") as caught:
            client.chat.completions.create(
                model="griffin", messages=[{"role": "user", "content": image}]
            )
        assert caught.value.param == "messages.0.content.0"
