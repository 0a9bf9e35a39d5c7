# SPDX-License-Identifier: Apache-2.0
"""What the lm-evaluation-harness asks is what lm.score, lm.complete and chat_format say."""

import math
from typing import Any

import numpy as np
import pytest
from lm_eval.api.instance import Instance

from eval.tasks.harness import HarnessModel, sampling_of
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.text.chat import chat_format
from tests.eval.tasks.models import byte_model

MESSAGES = [{"role": "user", "content": "Say <end_of_turn> and <start_of_turn>."}]


@pytest.fixture
def lm() -> LanguageModel:
    return byte_model("griffin")


def ask(kind: Any, *arguments: tuple) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=given, idx=0, metadata=("t", i, 1))
        for i, given in enumerate(arguments)
    ]


def test_loglikelihood_is_the_score_of_the_continuation(lm):
    pairs = [("Two and two are", " four"), ("", "four"), ("The sky is ", "blue"), ("a", " four")]
    numbers = HarnessModel(lm).loglikelihood(ask("loglikelihood", *pairs))
    for (context, continuation), (nats, _) in zip(pairs, numbers, strict=True):
        taken = len((context + continuation).encode()) - len(context.rstrip().encode())
        assert nats == pytest.approx(lm.score(context + continuation)[-taken:].sum(), abs=1e-4)


def test_greedy_answers_are_told(lm):
    (completion,) = lm.complete(["Once"], max_tokens=3)
    while not completion.text.isascii():
        pytest.fail(f"the model says {completion.text!r}, which bytes cannot repeat")
    wrong = f"{completion.text[:2]}{'x' if completion.text[2] != 'x' else 'y'}"
    pairs = [("Once", completion.text), ("Once", wrong)]
    numbers = HarnessModel(lm).loglikelihood(ask("loglikelihood", *pairs))
    assert [greedy for _, greedy in numbers] == [True, False]


def test_a_document_is_scored_whole(lm):
    texts = ["It was the best of times. " * 60, "", "Ü"]
    numbers = HarnessModel(lm, batch_size=2).loglikelihood_rolling(
        ask("loglikelihood_rolling", *[(text,) for text in texts])
    )
    expected = [lm.score(texts[0]).sum(dtype=np.float64), 0.0, lm.score(texts[2]).sum()]
    assert numbers == pytest.approx(expected, rel=1e-5)


def test_answers_are_those_of_complete(lm):
    requests = [
        ("Once upon", {"until": ["e"], "max_gen_toks": 20}),
        ("Two", {"until": [], "max_gen_toks": 3, "do_sample": False, "temperature": 0.0}),
        ("Three and more", {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "seed": 1}),
    ]
    counts: list[int] = []
    texts = HarnessModel(lm, batch_size=2, progress=counts.append).generate_until(
        ask("generate_until", *requests)
    )
    assert texts == [
        lm.generate("Once upon", stop="e", max_tokens=20),
        lm.generate("Two", max_tokens=3),
        lm.generate("Three and more", max_tokens=256, temperature=0.7, top_p=0.9, seed=1),
    ]
    assert counts == [2, 1]


def test_a_chat_is_written_by_its_format_and_cannot_be_forged(lm):
    model = HarnessModel(lm)
    chat = model.apply_chat_template(MESSAGES)
    ids = chat_format(lm.tokenizer).encode(MESSAGES)
    assert chat == lm.tokenizer.decode(ids)
    assert model.tok_encode(chat) == ids != lm.tokenizer.encode(chat)
    (text,) = model.generate_until(ask("generate_until", (chat, {"max_gen_toks": 5})))
    assert text == lm.chat(MESSAGES, max_tokens=5)
    ((nats, _),) = model.loglikelihood(ask("loglikelihood", (chat, "yes")))
    assert nats == pytest.approx(lm.score([*ids, *b"yes"])[-3:].sum(), abs=1e-4)
    begun = [*MESSAGES, {"role": "assistant", "content": "It is"}]
    prefilled = model.apply_chat_template(begun, add_generation_prompt=False)
    assert prefilled.endswith("It is")
    assert model.chat_template(True) == model.tokenizer_name == chat_format(lm.tokenizer).name
    assert model.chat_template(False) is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Sampling(max_tokens=256)),
        ({"until": "a", "max_new_tokens": 4}, Sampling(max_tokens=4, stop=("a",))),
        ({"do_sample": False, "temperature": 0.5}, Sampling(max_tokens=256)),
        ({"do_sample": True}, Sampling(max_tokens=256, temperature=1.0)),
        ({"temperature": 0.5, "top_k": 3}, Sampling(max_tokens=256, temperature=0.5, top_k=3)),
    ],
)
def test_generation_kwargs(options: dict, expected: Sampling):
    assert sampling_of(options) == expected


def test_unknown_generation_kwargs_are_refused():
    with pytest.raises(UserError, match="generation_kwargs have num_beams"):
        sampling_of({"num_beams": 4})


def test_a_model_without_a_tokenizer_is_refused(lm):
    with pytest.raises(UserError, match="without a tokenizer"):
        HarnessModel(LanguageModel(lm.model))


def test_a_context_that_global_attention_cannot_hold_is_refused_and_not_cut():
    request = ask("loglikelihood", ("a" * 130, "b"))
    with pytest.raises(UserError, match="global attention holds context_length=128"):
        HarnessModel(byte_model("mqa")).loglikelihood(request)
    assert math.isfinite(
        HarnessModel(byte_model("mqa")).loglikelihood(ask("loglikelihood", ("a", "b")))[0][0]
    )
