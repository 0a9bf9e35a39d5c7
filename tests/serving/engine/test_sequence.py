"""From a slot's tokens to events, and why an answer ends."""

import pytest

from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.text.tokenizer import ByteTokenizer
from serving.engine.request import GenerationRequest, TokenScore
from serving.engine.sequence import LiveSequence

BYTES = ByteTokenizer()
STOP = BYTES.stop_ids[0]


def sequence(*, stop=(), max_tokens=9, logprobs=None, prompt_logprobs=False, tokenizer=BYTES):
    request = GenerationRequest(
        prompt=(65,),
        sampling=Sampling(max_tokens=max_tokens, stop=stop),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )
    return LiveSequence(7, request, tokenizer)


def tokens(ids) -> list[TokenScore]:
    return [TokenScore(token_id=id, logprob=-1.0, top=((1, -0.5), (2, -0.7))) for id in ids]


ENDS = {  # blocks of tokens, options -> text, tokens told, tokens counted, reason
    "length": ([b"ab", b"c"], {}, "abc", b"abc", 3, "length"),
    "stop token": ([b"ab", [99, STOP]], {}, "abc", [*b"abc", STOP], 4, "stop"),
    "stop token alone": ([b"ab", [STOP]], {}, "ab", [*b"ab", STOP], 3, "stop"),
    "stop string": ([b"abST", b"OPde"], {"stop": ("STOP",)}, "ab", b"ab", 6, "stop"),
    "held back": ([b"abST"], {"stop": ("STOP",)}, "abST", b"abST", 4, "length"),
    "half a character": ([b"ab\xc3"], {}, "ab\ufffd", b"ab\xc3", 3, "length"),
    "no tokenizer": ([b"ab", [STOP]], {"tokenizer": None}, "", [*b"ab", STOP], 3, "length"),
}


@pytest.mark.parametrize("case", ENDS)
def test_how_an_answer_ends(case):
    blocks, options, text, ids, counted, reason = ENDS[case]
    answer = sequence(**options)
    events = []
    for i, block in enumerate(blocks):
        event = answer.push(tokens(block), done=i == len(blocks) - 1)
        if event is not None:
            events.append(event)
            if event.finish_reason:
                break
    assert "".join(event.text for event in events) == text
    assert [id for event in events for id in event.token_ids] == list(ids)
    assert [event.finish_reason for event in events] == [None] * (len(events) - 1) + [reason]
    assert events[-1].num_generated == counted
    assert all(event.request_id == 7 and event.scores == () for event in events)


def test_nothing_to_tell_is_no_event():
    assert sequence().push(tokens(b"\xc3"), done=False) is not None  # the token, if not its text
    assert sequence(stop=("ab",)).push(tokens(b"a"), done=False) is None
    assert sequence().prompt_read([]) is None


def test_as_many_of_the_likeliest_as_were_asked_for():
    for logprobs, top in [(0, ()), (1, ((1, -0.5),)), (2, ((1, -0.5), (2, -0.7)))]:
        event = sequence(logprobs=logprobs).push(tokens(b"a"), done=False)
        assert event is not None
        assert [score.top for score in event.scores] == [top]


def test_a_prompt_that_is_read():
    event = sequence(logprobs=1, prompt_logprobs=True).prompt_read(tokens(b"ab"))
    assert event is not None
    assert [score.offset for score in event.prompt_scores] == [0, 1]
    assert event.finish_reason is None
    event = sequence(max_tokens=0).prompt_read([])
    assert event is not None
    assert (event.prompt_scores, event.finish_reason) == ((), "length")
