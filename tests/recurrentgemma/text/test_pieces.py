# SPDX-License-Identifier: Apache-2.0
"""A text in pieces has the ids of the whole text, for tokenizers of every kind."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recurrentgemma.text import pieces
from recurrentgemma.text.pieces import HeldText, certain, ids_of, joins_words
from tests.recurrentgemma.text.seams import KINDS

WORDS = ["To be", " or", " not", "  ", "\n\n", "\n  ", "été", "🎉", "日本語", " 1601", "'tis", "."]
WORDS += ["<start_of_turn>", "user\n", "<end", "_of_turn>", "e\u0301", "a" * 40, "▁", " \u0301"]
TEXT = st.lists(st.sampled_from(WORDS), max_size=60).map("".join)


def in_pieces(tokenizer, text: str, cuts: list[int]) -> tuple[list[int], int]:
    """The ids of a text that comes in pieces, each looked at as soon as it is there, and the most
    characters that were held back."""
    ids, held, most = [], HeldText(), 0
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        held = held._replace(text=held.text + text[start:end])
        more, held = certain(tokenizer, held)
        ids, most = ids + more, max(most, len(held.text))
    return ids + ids_of(tokenizer, held), most


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_pieces_are_the_whole(kind: str, data):
    tokenizer = KINDS[kind]()
    text = data.draw(TEXT)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    assert in_pieces(tokenizer, text, cuts)[0] == (tokenizer.encode(text) if text else [])


@pytest.fixture
def small(monkeypatch) -> None:
    monkeypatch.setattr(pieces, "CUT_MARGIN", 24)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@pytest.mark.usefixtures("small")
def test_text_without_spaces_is_cut_too(kind: str, data):
    tokenizer = KINDS[kind]()
    text = data.draw(st.lists(st.sampled_from(["日本", "語", "ob", "e", "été", "🎉"])).map("".join))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    assert in_pieces(tokenizer, text, cuts)[0] == (tokenizer.encode(text) if text else [])


@pytest.mark.parametrize("kind", KINDS)
def test_little_is_held_back(kind: str):
    tokenizer, text = KINDS[kind](), "To be, or not to be:\n\n  that is the question 1601. " * 40
    ids, most = in_pieces(tokenizer, text, list(range(7, len(text), 7)))
    assert ids == tokenizer.encode(text)
    assert most < (pieces.CUT_MARGIN + 15 if tokenizer.joins_words else 50)
    spaceless = "東京日本語été" * 100
    ids, most = in_pieces(tokenizer, spaceless, list(range(5, len(spaceless), 5)))
    assert ids == tokenizer.encode(spaceless)
    assert most < 2 * pieces.CUT_MARGIN


def test_pieces_across_words():
    """These three were trained on whole sentences; no word of theirs surely ends at a space."""
    joined = {kind for kind, make in KINDS.items() if make().joins_words}
    assert joined == {"metaspace always", "metaspace first", "llama"}
    tokenizer = KINDS["llama"]()
    pieces_of_text = [tokenizer.decode([i]) for i in tokenizer.encode("to be or not to be")]
    assert any(" " in piece.strip() for piece in pieces_of_text)
    _, held = certain(tokenizer, HeldText("to be or not to be"))
    assert held.text == "to be or not to be"


@pytest.mark.parametrize(
    ("vocabulary", "joined"),
    [
        (["a", "▁b", "▁▁", "\n▁", "Ċ\u0120\u0120"], False),
        (["a", "b▁"], True),
        (["of\u0120the"], True),
        (["<a b>"], True),
    ],
)
def test_which_vocabularies_join_words(vocabulary, joined):
    assert joins_words(vocabulary) is joined


def test_what_cannot_be_cut_is_cut_at_last(monkeypatch):
    """Nothing grows without an end, even where every cut changes the ids."""
    monkeypatch.setattr(pieces, "MOST", 1000)
    tokenizer = KINDS["bytes"]()
    monkeypatch.setattr(pieces, "_cuts", lambda tokenizer, text: iter(()))
    held = HeldText("a" * 1000)
    assert certain(tokenizer, held) == ([], held)
    ids, held = certain(tokenizer, HeldText("a" * 1001))
    assert (len(ids), len(held.text)) == (1 + 1001 - pieces.CUT_MARGIN, pieces.CUT_MARGIN)


def test_where_no_text_was_before():
    tokenizer = KINDS["sentencepiece with a prefix"]()
    alone, after_tokens = HeldText("be"), HeldText("be", None)
    assert ids_of(tokenizer, alone) == tokenizer.encode("be")  # with bos, and its space
    assert tokenizer.decode(ids_of(tokenizer, after_tokens)) == "be"
    assert len(ids_of(tokenizer, after_tokens)) <= len(ids_of(tokenizer, alone)) - 1
    assert ids_of(tokenizer, HeldText()) == []
