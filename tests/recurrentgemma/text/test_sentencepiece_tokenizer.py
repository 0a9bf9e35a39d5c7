# SPDX-License-Identifier: Apache-2.0
"""Training a SentencePiece tokenizer."""

import pytest

from recurrentgemma.text.tokenizer import (
    train_sentencepiece,
)

TEXT = "To be, or not to be: that is the question.\n\n  été 東京 🎉 <b>2024</b>\t\0\r\n"


def test_training_is_deterministic_and_follows_gemma():
    texts = [TEXT * 20, "", "The slings and arrows of outrageous fortune. " * 500]
    first, second = train_sentencepiece(texts, 400), train_sentencepiece(iter(texts), 400)
    assert first.model == second.model
    assert first.vocab_size == 400
    assert (first.pad_id, first.eos_id, first.bos_id) == (0, 1, 2)
    assert first.control_tokens == {"<start_of_turn>": 4, "<end_of_turn>": 5}
    assert len(first.encode("outrageous fortune", bos=False)) < 9  # learned from the long text
    assert first.encode("1601", bos=False) == [first.encode(d, bos=False)[0] for d in "1601"]


def test_training_takes_text_of_any_shape():
    """Nothing is left out: not a long line, not one with a tab, not the newlines."""
    tokenizer = train_sentencepiece(["zebra\tquagga\n\n" * 2000], 300)
    for word in ("zebra", "quagga", "\n\n"):
        assert len(tokenizer.encode(word, bos=False)) == 1
    tokenizer = train_sentencepiece(["zebra" * 4000], 275)
    assert len(tokenizer.encode("zebra" * 8, bos=False)) < 8


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [([], 400, "hardly any"), (["", ""], 400, "hardly any"), (["abc"], 100, "100")],
)
def test_training_that_cannot_work(texts, size, message):
    with pytest.raises(ValueError, match=message):
        train_sentencepiece(texts, size)


def test_a_small_text_gives_a_smaller_vocabulary():
    assert 262 < train_sentencepiece(["hello world"], 8000).vocab_size < 300
