"""Streaming: the pieces together are the text, and no piece is half a character."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recurrentgemma.text.streaming import tokens_within
from recurrentgemma.text.tokenizer import ByteTokenizer, StopScanner, StreamDecoder

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
TEXT = st.one_of(ANY_TEXT, st.text("aé東🎉 ▁\n", max_size=80))


def pieces_of(tokenizer, ids, cuts=(), context=()) -> list[str]:
    """The pieces when `ids` are pushed in blocks that end at `cuts`; by default one by one."""
    stream = StreamDecoder(tokenizer, context)
    ends = sorted({min(c, len(ids)) for c in cuts} | {len(ids)}) if cuts else range(1, len(ids) + 1)
    starts = [0, *ends][:-1]
    return [stream.push(ids[a:b]) for a, b in zip(starts, ends, strict=False)] + [stream.finish()]


@given(data=st.data())
def test_pieces_join_to_the_decoded_text(tokenizer, data):
    """Of texts, and of any ids at all, in blocks of any sizes."""
    text_ids = TEXT.map(lambda text: tokenizer.encode(text, bos=False))
    any_ids = st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=120)
    parts = data.draw(st.lists(st.one_of(text_ids, any_ids), max_size=4))
    ids = [token for part in parts for token in part]
    cuts = data.draw(st.lists(st.integers(1, 200), max_size=10))
    assert "".join(pieces_of(tokenizer, ids, cuts)) == tokenizer.decode(ids)


@pytest.fixture(params=[(48, 8), (3, 1), (4, 3)])
def window(request, monkeypatch) -> None:
    """The window of the stream; small ones, to let go of tokens everywhere."""
    monkeypatch.setattr("recurrentgemma.text.streaming._WINDOW", request.param[0])
    monkeypatch.setattr("recurrentgemma.text.streaming._KEPT", request.param[1])


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@pytest.mark.usefixtures("window")
def test_a_long_stream_of_anything(tokenizer, data):
    """Long enough for the window to move, and full of bytes that are not UTF-8."""
    ids = range(tokenizer.vocab_size)
    texts = [tokenizer.decode([i]) for i in ids]  # alone some are no text, or no whole character
    odd = [i for i in ids if not texts[i] or texts[i][0] in " \ufffd"]
    any_id = st.one_of(st.sampled_from(odd), st.sampled_from(ids))
    some = data.draw(st.lists(any_id, min_size=1, max_size=5))
    some += tokenizer.encode(data.draw(st.sampled_from(["é", "🎉", "  a", "to be"])), bos=False)
    block = data.draw(st.lists(st.sampled_from(some), max_size=100))
    assert "".join(pieces_of(tokenizer, block)) == tokenizer.decode(block)


def test_text_that_later_tokens_change_is_held_back(tokenizer):
    ids = tokenizer.encode("to be or not to be")
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


@given(prompt=TEXT, answer=TEXT)
def test_the_prompt_and_the_pieces_are_one_text(tokenizer, prompt, answer):
    """No space is lost between them, where a tokenizer drops the one that begins a text."""
    before = tokenizer.encode(prompt)
    ids = tokenizer.encode(answer, bos=False)
    streamed = "".join(pieces_of(tokenizer, ids, context=before))
    if not tokenizer.decode(before).endswith("\ufffd"):
        assert tokenizer.decode(before) + streamed == tokenizer.decode(before + ids)


@given(text=TEXT)
def test_no_piece_is_half_a_character(lossless, text):
    text = text.replace("▁", "").replace("\ufffd", "")
    for tokenizer in lossless.values():
        pieces = pieces_of(tokenizer, tokenizer.encode(text))
        assert "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)


def test_text_comes_as_soon_as_it_is_sure(lossless):
    for name, tokenizer in lossless.items():
        ids = tokenizer.encode("to be, or not to be", bos=False)
        assert pieces_of(tokenizer, ids)[:-1] == [tokenizer.decode([i]) for i in ids], name
    assert pieces_of(ByteTokenizer(), list("a🎉b".encode())) == ["a", "", "", "", "🎉", "b", ""]


def test_an_unfinished_character_ends_as_a_replacement_character():
    assert pieces_of(ByteTokenizer(), [65, 0xF0, 0x9F]) == ["A", "", "", "\ufffd"]


def test_a_prompt_that_ends_inside_a_character_is_completed():
    first, *others = "é!".encode()
    assert "".join(pieces_of(ByteTokenizer(), others, context=[65, first])) == "é!"


def test_the_work_of_a_push_does_not_grow_with_the_stream(tokenizer):
    stream = StreamDecoder(tokenizer)
    longest = 0
    for token in tokenizer.encode("to be or not to be " * 100):
        stream.push([token])
        longest = max(longest, len(stream._window))
    assert longest < 200 or not tokenizer.settled([tokenizer.vocab_size - 1])


def expected(text: str, stop: list[str]) -> str:
    """The shortest beginning of `text` that ends in a stop string, without the longest of those."""
    for end in range(len(text) + 1):
        complete = [s for s in stop if text[:end].endswith(s)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


@given(
    text=st.text("ab", max_size=30),
    stop=st.lists(st.text("ab", min_size=1, max_size=5), max_size=4),
    cuts=st.lists(st.integers(0, 30)),
)
def test_text_is_cut_before_the_first_stop_string(text, stop, cuts):
    scanner = StopScanner(stop)
    ends = sorted([*(min(c, len(text)) for c in cuts), len(text)])
    out = ""
    for start, end in zip([0, *ends], ends, strict=False):
        out += scanner.push(text[start:end])
        certain = expected(text[:end], stop)
        unsent = len(certain) - len(out)
        assert certain.startswith(out)
        if unsent and not scanner.stopped:  # what is held back may be the start of a stop string
            assert any(s.startswith(certain[-unsent:]) and len(s) > unsent for s in stop)
    out += scanner.finish()
    assert out == expected(text, stop)
    assert scanner.stopped == any(re.search(re.escape(s), text) for s in stop)


@pytest.mark.parametrize("stop", [[""], "text", [1]])
def test_stop_strings_are_a_list_of_strings(stop):
    with pytest.raises(ValueError, match="stop"):
        StopScanner(stop)


@given(data=st.data())
def test_tokens_within_a_text(tokenizer, data):
    """As many tokens as the text has whole, and their text and the rest are the text."""
    context = tokenizer.encode("To be", bos=False)
    ids = tokenizer.encode("; " + data.draw(TEXT), bos=False)
    decoder = StreamDecoder(tokenizer, context)
    whole = decoder.push(ids) + decoder.finish()
    text = whole[: data.draw(st.integers(0, len(whole)))]
    count, remainder = tokens_within(tokenizer, context, ids, text)
    decoder = StreamDecoder(tokenizer, context)
    assert decoder.push(ids[:count]) + decoder.finish() + remainder == text
    if tokenizer.settled(ids) and text == whole and not whole.endswith("\ufffd"):
        assert (count, remainder) == (len(ids), "")
