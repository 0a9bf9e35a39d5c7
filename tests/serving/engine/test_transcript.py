"""Tokens to text: characters stay whole, tokens come with their text, streaming changes nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurrentgemma.text.tokenizer import ByteTokenizer
from serving.engine.transcript import TokenScore, Transcript

BYTES = ByteTokenizer()


def tokens(ids) -> list[TokenScore]:
    return [TokenScore(token_id=id, logprob=-1.0, top=()) for id in ids]


def drain(transcript: Transcript, blocks) -> tuple[list[str], list[TokenScore], int]:
    """(pieces of text, tokens released, tokens taken)."""
    pieces, released, taken = [], [], 0
    for block in blocks:
        count, text, more = transcript.push(tokens(block))
        pieces.append(text)
        released += more
        taken += count
        if transcript.stopped:
            break
    else:
        text, more = transcript.finish()
        pieces.append(text)
        released += more
    return pieces, released, taken


def test_a_character_is_never_cut():
    ids = list("naïve 🙂!".encode())
    transcript = Transcript(BYTES, (), token_by_token=True)
    pieces, released, _ = drain(transcript, [[id] for id in ids])
    assert [piece for piece in pieces if piece] == list("naïve 🙂!")
    assert [score.offset for score in released] == [0, 1, 2, 2, 3, 4, 5, 6, 6, 6, 6, 7]


def test_tokens_wait_for_their_text():
    transcript = Transcript(BYTES, (), token_by_token=True)
    assert transcript.push(tokens("é".encode()[:1])) == (1, "", [])
    count, text, released = transcript.push(tokens("é".encode()[1:]))
    assert (count, text, [score.offset for score in released]) == (1, "é", [0, 0])


def test_a_stop_string_takes_its_tokens_with_it():
    transcript = Transcript(BYTES, (), stop=["ST", "zzz"])
    pieces, released, taken = drain(transcript, [b"abS", b"x", b"STOP", b"never"])
    assert "".join(pieces) == "abSx"
    assert bytes(score.token_id for score in released) == b"abSx"
    assert taken == 6  # up to the T


def test_what_might_have_been_a_stop_string_is_given_at_the_end():
    transcript = Transcript(BYTES, (), stop=["STOP"])
    pieces, released, taken = drain(transcript, [b"abST"])
    assert pieces == ["ab", "ST"]
    assert len(released) == taken == 4


@given(
    ids=st.lists(st.integers(0, 258), max_size=30),
    cuts=st.lists(st.integers(1, 5), max_size=30),
    stop=st.sampled_from([(), ("a",), ("ab", "\n\n")]),
    scored=st.booleans(),
)
def test_blocks_change_nothing(ids, cuts, stop, scored):
    blocks, later = [], ids
    for cut in cuts:
        blocks.append(later[:cut])
        later = later[cut:]
    blocks.append(later)
    transcripts = [Transcript(BYTES, (65,), stop=stop, token_by_token=scored) for _ in range(2)]
    pieces, released, taken = drain(transcripts[0], blocks)
    whole, released_at_once, taken_at_once = drain(transcripts[1], [ids])
    assert "".join(pieces) == "".join(whole)
    assert released == released_at_once if scored else len(released) == len(released_at_once)
    assert taken == taken_at_once
    if not stop:
        assert "".join(pieces) == BYTES.decode(ids)
        assert [score.token_id for score in released] == ids


@pytest.mark.parametrize("by_token", [True, False])
def test_without_a_tokenizer_every_token_is_released(by_token):
    transcript = Transcript(None, (1, 2), token_by_token=by_token)
    pieces, released, taken = drain(transcript, [[5, 6], [7]])
    assert "".join(pieces) == ""
    assert [score.token_id for score in released] == [5, 6, 7]
    assert taken == 3
