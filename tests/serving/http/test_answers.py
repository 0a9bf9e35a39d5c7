"""From a body to the engine's requests, and from events to choices."""

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from serving.engine.engine import Engine
from serving.engine.request import Event, TokenScore
from serving.http.answers import Answer, join, read_questions
from serving.http.protocol import CompletionRequest


def questions(engine, **fields):
    return read_questions(CompletionRequest.model_validate(fields), engine)


def test_choices_are_requests_of_one_prompt(griffin):
    asked = questions(griffin, prompt=["ab", "c"], n=2, seed=7, top_k=-1, stop=["x"], echo=True)
    first, second, third, fourth = asked.requests
    assert first.prompt is second.prompt  # however long it is
    np.testing.assert_array_equal(first.prompt, griffin.lm.tokenizer.encode("ab"))
    assert third.prompt is fourth.prompt
    assert [request.sampling.seed for request in asked.requests] == [7, 8, 7, 8]
    assert {(r.sampling.top_k, r.sampling.stop) for r in asked.requests} == {(0, ("x",))}
    assert asked.echoes == ("ab", "ab", "c", "c")


def test_without_a_seed_each_request_has_its_own(griffin):
    seeds = {questions(griffin, prompt="a").requests[0].sampling.seed for _ in range(5)}
    assert len(seeds) == 5


def test_prompts_as_tokens_are_echoed_as_text(griffin):
    assert questions(griffin, prompt=[72, 105], echo=True).echoes == ("Hi",)


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"prompt": "a"}, "prompt"), ({"prompt": [1], "stop": "x"}, "stop")],
)
def test_what_needs_a_tokenizer_names_its_field(language_model, fields, field):
    engine = Engine(language_model("hawk", None), slots=1)
    with pytest.raises(UserError, match="tokenizer") as caught:
        questions(engine, **fields)
    assert caught.value.field == field


def test_chunks_join_to_the_whole_choice(griffin):
    asked = questions(griffin, prompt="ab", logprobs=1, echo=True, return_token_ids=True)
    answer = Answer(asked, griffin)
    scores = [
        TokenScore(token_id=id, logprob=-0.5, top=((id, -0.5), (65, -1.0)), offset=i)
        for i, id in enumerate(b"xyz")
    ]
    chunks = [
        answer.chunk(0, Event(request_id=0, prompt_scores=tuple(scores[:1]))),
        answer.chunk(
            0, Event(request_id=0, text="xy", token_ids=(120, 121), scores=tuple(scores[:2]))
        ),
        answer.chunk(
            0,
            Event(
                request_id=0,
                text="z",
                token_ids=(122,),
                scores=tuple(scores[2:]),
                num_generated=3,
                finish_reason="length",
            ),
        ),
    ]
    whole = join(chunks)
    assert (whole.text, whole.finish_reason) == ("abxyz", "length")
    assert whole.token_ids == list(b"xyz")
    assert whole.prompt_token_ids == griffin.lm.tokenizer.encode("ab")
    assert whole.logprobs is not None
    assert whole.logprobs.tokens == ["x", "x", "y", "z"]
    assert whole.logprobs.text_offset == [0, 2, 3, 4]  # after the echo
    assert whole.logprobs.top_logprobs[-1] == {"z": -0.5, "A": -1.0}
    assert chunks[0].text == "ab"  # join changes no chunk
    usage = answer.usage()
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 3, 6)
