"""Tokenizers: round trips, ids, files told apart by content, training."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurrentgemma.text.tokenizer import (
    ByteTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    check_vocabulary,
    find_tokenizer,
    load_tokenizer,
)
from tests.recurrentgemma.conftest import with_tokens

TEXT = "To be, or not to be: that is the question.\n\n  été 東京 🎉 <b>2024</b>\t\0\r\n"


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_text_survives(lossless, text):
    for name, tokenizer in lossless.items():
        # SentencePiece, and what imitates it, writes a space as U+2581, and reads it as one.
        same = text if name in ("bytes", "byte_level") else text.replace("▁", " ")
        assert tokenizer.decode(tokenizer.encode(text)) == same, name


def test_ids_lie_in_the_vocabulary_and_bos_comes_first(tokenizer):
    ids = tokenizer.encode(TEXT, bos=False)
    assert all(type(i) is int and 0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.encode(TEXT) == [tokenizer.bos_id, *ids]
    assert tokenizer.encode("", bos=False) == []
    assert tokenizer.encode("") == [tokenizer.bos_id]


def test_bytes_of_tokens_are_those_of_the_text(lossless):
    texts = [
        "To be, or not\n\n  to be",
        "d\u00e9j\u00e0 \u6771\u4eac \U0001f389\t<b>",
        " a",
        "x" * 40,
    ]
    for name, tokenizer in lossless.items():
        of_token = tokenizer.token_bytes()
        assert len(of_token) == tokenizer.vocab_size
        for text in texts:
            parts = [of_token[id] for id in tokenizer.encode(text, bos=False)]
            assert b"".join(part or b"?" for part in parts) == text.encode(), name
        silent = [tokenizer.bos_id, tokenizer.eos_id, *tokenizer.control_tokens.values()]
        assert all(of_token[id] is None for id in silent if id is not None)


def test_control_tokens_without_text(tokenizer):
    ids = [i for i in (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) if i is not None]
    assert len(set(ids)) == len(ids) >= 2
    assert tokenizer.decode(ids) == ""


def test_generation_ends_at_eos_and_end_of_turn(lossless):
    for tokenizer in lossless.values():
        end_of_turn = tokenizer.control_tokens["<end_of_turn>"]
        assert set(tokenizer.stop_ids) == {tokenizer.eos_id, end_of_turn}
        assert tokenizer.encode("a<end_of_turn>", bos=False)[-1] == end_of_turn
        assert tokenizer.decode([end_of_turn]) == "<end_of_turn>"


@pytest.mark.parametrize("outside", [-1, 100_000])
def test_a_token_outside_of_the_vocabulary_is_an_error(tokenizer, outside):
    with pytest.raises(ValueError, match=str(outside)):
        tokenizer.decode([outside])


def test_saved_and_loaded_again(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert type(again) is type(tokenizer)
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    for name in ("vocab_size", "bos_id", "eos_id", "pad_id", "stop_ids", "control_tokens"):
        assert getattr(again, name) == getattr(tokenizer, name), name


def test_a_file_of_any_name_is_told_apart_by_content(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    file = next(f for f in tmp_path.iterdir() if f.name != "tokenizer_config.json")
    renamed = file.rename(tmp_path / "vocabulary.bin")
    assert load_tokenizer(renamed).encode(TEXT) == tokenizer.encode(TEXT)


def test_what_is_no_tokenizer_is_an_error(tmp_path):
    assert find_tokenizer(tmp_path) is None
    with pytest.raises(ValueError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="no tokenizer file"):
        load_tokenizer(tmp_path / "missing.model")
    for content in (b"", b"plain text", b"\0\1\2", b"{}", b"{", b'{"model": 3}', b"[1]"):
        (tmp_path / "tokenizer.model").write_bytes(content)
        with pytest.raises(ValueError, match=r"tokenizer\.model"):
            load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_text('{"tokenizer": "bytes", "pad": 0}')
    with pytest.raises(ValueError, match="expected"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_may_not_have_more_ids_than_the_model():
    check_vocabulary(ByteTokenizer(), 261)
    check_vocabulary(ByteTokenizer(), 512)
    with pytest.raises(ValueError, match="261 ids"):
        check_vocabulary(ByteTokenizer(), 260)


@pytest.fixture(scope="module")
def same_model(lossless, tmp_path_factory):
    """A SentencePiece model, and the same as a tokenizer.json."""
    from checkpoints.transformers_tokenizer import from_sentencepiece

    model = lossless["sentencepiece"]
    return model, HuggingFaceTokenizer(from_sentencepiece(model).to_str())


@pytest.mark.parametrize(
    ("added", "room", "taken"),
    [
        ((), 0, "tokenizer.model"),  # they are one
        (("<tool>", "<image>"), 0, "tokenizer.model"),  # the embedding has no room for more
        (("<tool>", "<image>"), 2, "tokenizer.json"),
        (("<tool>", "<image>"), 100, "tokenizer.json"),  # an embedding is often padded
        (("<tool>", "<image>"), None, "tokenizer.json"),
    ],
)
def test_of_two_tokenizers_what_the_embedding_fits(same_model, tmp_path, added, room, taken):
    model, twin = same_model
    model.save(tmp_path)
    with_tokens(twin, *added).save(tmp_path)
    tokenizer = load_tokenizer(tmp_path, None if room is None else model.vocab_size + room)
    assert isinstance(tokenizer, SentencePieceTokenizer) == (taken == "tokenizer.model")
    assert tokenizer.vocab_size == model.vocab_size + (
        len(added) if taken == "tokenizer.json" else 0
    )
    assert taken in tokenizer.beside
    assert ("tokenizer.json" in tokenizer.beside) == (room != 0 or not added)


def test_two_tokenizers_that_disagree_are_refused(same_model, lossless, tmp_path):
    model, _ = same_model
    model.save(tmp_path)
    lossless["byte_fallback"].save(tmp_path)
    with pytest.raises(ValueError, match=r"tokenizer\.json and tokenizer\.model encode the same"):
        find_tokenizer(tmp_path)
    tokenizer = find_tokenizer(tmp_path, model.vocab_size)  # where only one fits, that is it
    assert isinstance(tokenizer, SentencePieceTokenizer)
