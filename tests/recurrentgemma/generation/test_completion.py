# SPDX-License-Identifier: Apache-2.0
"""Answers: where they end, what a stop string cuts, their pieces and log-probabilities."""

from typing import Any

import jax
import numpy as np
import pytest

from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.text.tokenizer import ByteTokenizer
from tests.recurrentgemma.generation.small_models import lm_of

pytestmark = pytest.mark.usefixtures("small_chunks")


class Endless(ByteTokenizer):
    stop_ids = ()


@pytest.fixture(scope="module")
def babbler() -> LanguageModel:
    """Writes random bytes."""
    return lm_of("griffin", Endless(), vocab_size=300)


def babble(**changes) -> dict[str, Any]:
    return {"temperature": 1.5, "top_k": 40, "seed": 3, "max_tokens": 100} | changes


def test_generation_ends_at_the_tokens_that_the_tokenizer_says(babbler):
    (whole,) = babbler.complete(["Once"], **babble())
    assert (whole.finish_reason, len(whole.tokens)) == ("length", 100)

    class Ending(ByteTokenizer):
        stop_ids = (whole.tokens[50], whole.tokens[30])

    first = min(map(whole.tokens.index, Ending.stop_ids))
    ending = LanguageModel(babbler.model, Ending())
    (cut,) = ending.complete(["Once"], **babble())
    assert (cut.finish_reason, cut.tokens) == ("stop", whole.tokens[:first])
    assert cut.text == babbler.tokenizer.decode(cut.tokens)
    longer, alone = next(  # a row that has ended does not end the others
        (seed, other)
        for seed in range(4, 50)
        for other in ending.complete(["Once"], **babble(seed=seed))
        if len(other.tokens) > len(cut.tokens)
    )
    assert ending.complete(["Once", "Once"], **babble(seed=[3, longer])) == [cut, alone]


def test_ids_beyond_the_tokenizer_are_never_drawn(babbler):
    """The model has 300 embeddings, the tokenizer 261 ids."""
    rows = babbler.complete(["a"] * 8, temperature=50.0, seed=list(range(8)), max_tokens=200)
    drawn = {token for row in rows for token in row.tokens}
    assert len(drawn) > 240
    assert max(drawn) < 261


@pytest.mark.parametrize("streamed", [False, True])
def test_text_ends_before_a_stop_string(babbler, streamed):
    def text(**options) -> str:
        if streamed:
            return "".join(babbler.stream("Once", **babble(**options)))
        return babbler.generate("Once", **babble(**options))

    whole = text()
    assert whole == babbler.generate("Once", **babble())
    for start, end in ((0, 1), (7, 8), (20, 25), (60, 68), (len(whole) - 3, len(whole))):
        stop = whole[start:end]  # each of its characters is a token of its own, or several
        assert text(stop=stop) == whole[: whole.index(stop)]
        assert text(stop=["never this", stop]) == whole[: whole.index(stop)]
    assert text(stop=["never this"]) == whole
    assert text(stop=whole[-1] + "more") == whole  # held back until the end, not lost
    (completion,) = babbler.complete(["Once"], **babble(stop=whole[20:25]))
    assert completion.finish_reason == "stop"


def test_stop_strings_may_differ_between_rows(babbler):
    whole = babbler.generate("Once", **babble())
    stops = [[whole[30:33]], [], [whole[10:12]]]
    texts = babbler.generate(["Once"] * 3, **babble(stop=stops))
    assert texts == [babbler.generate("Once", **babble(stop=stop)) for stop in stops]
    assert len(set(texts)) == 3


def test_a_stream_is_the_generated_text_in_pieces(babbler):
    pieces = list(babbler.stream("Once", **babble()))
    assert "".join(pieces) == babbler.generate("Once", **babble())
    assert len(pieces) > 3
    assert all(pieces)


def test_log_probabilities(babbler):
    (row, other) = babbler.complete(["Once", "upon a"], **babble(max_tokens=7), logprobs=3)
    prompt = babbler.tokenizer.encode("Once")
    scores = babbler.score(prompt + row.tokens)[-7:]
    # `score` counts the ids beyond the tokenizer too, which generation never draws.
    assert np.abs(scores - row.logprobs).max() < 0.5
    logits_TV = babbler.logits([prompt + row.tokens])[0, len(prompt) - 1 : -1, :261]
    expected_TV = np.asarray(jax.nn.log_softmax(logits_TV.astype(np.float64)))
    np.testing.assert_allclose(row.logprobs, expected_TV[range(7), row.tokens], atol=1e-4)
    for top, expected_V in zip(row.top_logprobs, expected_TV, strict=True):
        assert [token for token, _ in top] == np.argsort(-expected_V)[:3].tolist()
        np.testing.assert_allclose([p for _, p in top], np.sort(expected_V)[::-1][:3], atol=1e-4)
    assert len(other.logprobs) == len(other.tokens) == 7
    assert babbler.complete(["Once"], **babble(max_tokens=7))[0].logprobs == []
