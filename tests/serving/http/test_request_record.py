"""What is known of a request when it is over."""

import pytest

from serving.engine.request import Event, GenerationRequest, Times
from serving.http.answers import Questions
from serving.http.metrics import Metrics
from serving.http.protocol import CompletionRequest
from serving.http.request_record import RequestRecord

BODY = CompletionRequest.model_validate({"prompt": ["ab", "c"], "max_tokens": 2})


@pytest.fixture
def questions():
    requests = tuple(
        GenerationRequest(prompt=prompt, sampling=None)  # type: ignore[arg-type]
        for prompt in ([1, 2], [3])
    )
    return Questions(body=BODY, requests=requests, echoes=("", ""))


@pytest.mark.parametrize("log_prompts", [False, True])
def test_an_answer_and_one_that_was_given_up(engine_thread, questions, log_prompts):
    metrics = Metrics(engine_thread, "m")
    record = RequestRecord("id", method="POST", metrics=metrics, log_prompts=log_prompts)
    record.asked(questions, "m")
    record.told(0, Event(request_id=1, text="x", token_ids=(7,), num_generated=1))
    times = Times(submitted=1.0, admitted=1.25, read=1.5, ended=2.0)
    end = {"num_generated": 2, "finish_reason": "stop", "cached_tokens": 1, "times": times}
    record.told(0, Event(request_id=1, text="y", token_ids=(8,), **end))
    record.status, record.error = 200, "client_gone"
    line = record.log_line("/v1/completions")
    assert line.pop("total_s") >= line.pop("first_token_s") >= 0
    texts = {"asked": ["ab", "c"], "answered": ["xy", ""]} if log_prompts else {}
    assert line == {
        "request_id": "id", "method": "POST", "route": "/v1/completions", "status": 200,
        "error": "client_gone", "model": "m", "stream": False, "prompt_tokens": 3,
        "cached_tokens": 1, "completion_tokens": 2, "finish_reasons": ["stop", "abort"],
        "queue_s": 0.25, **texts,
    }  # fmt: skip
    assert metrics.of("m").ended == {"stop": 1, "abort": 1}


def test_a_request_that_asks_for_no_text(engine_thread):
    record = RequestRecord("id", method="BREW", metrics=Metrics(engine_thread, "m"))
    record.status = 404
    line = record.log_line("none")
    assert line.pop("total_s") >= 0
    assert line == {"request_id": "id", "method": "OTHER", "route": "none", "status": 404}
