"""Lines are answered as the server answers them, and as `generate` does."""

import pytest

from serving.batch.answerer import Answerer
from serving.batch.lines import Line


def answered(engine, *lines: Line):
    answerer = Answerer(engine, model="griffin")
    responses = []
    waiting = list(lines)
    while waiting or answerer.busy:
        while waiting and answerer.room:
            answerer.take(waiting.pop(0))
        responses += answerer.step()
    return {response.line.number: response for response in responses}


def completion(number: int, **body) -> Line:
    return Line(number, f"id-{number}", "/v1/completions", body)


def test_completions_and_chats(griffin):
    messages = [{"role": "user", "content": "Who?"}]
    chat = Line(
        2, "id-2", "/v1/chat/completions", {"messages": messages, "max_tokens": 9, "seed": 3}
    )
    options = {"max_tokens": 8, "temperature": 1.5, "seed": 5}
    several = completion(1, prompt=["ab", "cd"], n=2, logprobs=1, **options)
    responses = answered(griffin, several, chat, *(completion(i, prompt="x") for i in range(3, 20)))
    assert len(responses) == 19
    assert not griffin.busy
    choices = responses[1].body["choices"]
    expected = [
        griffin.lm.generate(prompt, **options | {"seed": s})
        for prompt in ("ab", "cd")
        for s in (5, 6)
    ]
    assert [choice["text"] for choice in choices] == expected
    assert len(choices[0]["logprobs"]["tokens"]) <= 8
    text = responses[2].body["choices"][0]["message"]["content"]
    assert text == griffin.lm.chat(messages, max_tokens=9, temperature=1.0, seed=3)
    record = responses[2].record("5")
    assert (record["id"], record["custom_id"]) == ("batch_req_5", "id-2")
    assert record["error"] is None
    assert (record["response"]["status_code"], record["response"]["body"]) == (
        200,
        responses[2].body,
    )


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": "a", "tempreature": 1}, 400, "tempreature"),
        ({"prompt": "a", "stream": True}, 400, "stream"),
        ({"prompt": "a", "session": "x"}, 400, "session"),
        ({"prompt": "a", "model": "gpt"}, 404, "model"),
        ({"prompt": [999]}, 400, "prompt"),
        ({"prompt": "\ud800"}, 400, "prompt"),
        ({}, 400, "prompt"),
    ],
)
def test_a_line_that_is_refused_leaves_the_others_alone(griffin, body, status, param):
    good = completion(2, prompt="a", max_tokens=2, model="griffin")
    responses = answered(griffin, Line(1, "x", "/v1/completions", body), good)
    assert (responses[1].status_code, responses[1].body["error"]["param"]) == (status, param)
    assert responses[2].status_code == 200


def test_an_answer_that_cannot_have_its_form_is_an_error_of_its_line(griffin):
    form = {"structured_outputs": {"regex": "a{1000000}"}}
    responses = answered(griffin, completion(1, prompt="a", n=2, **form), completion(2, prompt="a"))
    assert responses[1].status_code == 422
    assert responses[1].body["error"]["code"] == "constraint_failed"
    assert responses[2].status_code == 200


def test_slots_are_kept_full_and_memory_is_bounded(griffin):
    answerer = Answerer(griffin, model="griffin")
    taken = 0
    while answerer.room:
        answerer.take(completion(taken, prompt="a", max_tokens=40, ignore_eos=True))
        taken += 1
    assert taken == 2 * griffin.slots
    most = 0
    while answerer.busy:
        answerer.step()
        most = max(most, griffin.running)
    assert most == griffin.slots
