"""Tokenizers: round trips, ids, files told apart by content, training."""

import json

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
    save_tokenizer,
    train_sentencepiece,
)

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


def test_a_tokenizer_config_names_the_roles(lossless, tmp_path):
    tokenizer = lossless["byte_level"]
    tokenizer.save(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    roles = {"bos_token": {"content": "<unk>"}, "eos_token": "<pad>", "pad_token": None}
    config.write_text(json.dumps(roles | {"chat_template": "kept"}))
    other = load_tokenizer(tmp_path)
    assert (other.bos_id, other.eos_id, other.pad_id) == (3, 0, None)
    other.save(tmp_path)
    assert json.loads(config.read_text())["chat_template"] == "kept"
    config.write_text(json.dumps({"bos_token": "<nowhere>"}))
    with pytest.raises(ValueError, match="<nowhere>"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_may_not_have_more_ids_than_the_model():
    check_vocabulary(ByteTokenizer(), 261)
    check_vocabulary(ByteTokenizer(), 512)
    with pytest.raises(ValueError, match="261 ids"):
        check_vocabulary(ByteTokenizer(), 260)


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


def with_tokens(tokenizer: HuggingFaceTokenizer, *tokens: str) -> HuggingFaceTokenizer:
    """The same with more ids at its end."""
    content = json.loads(tokenizer.content)
    for i, token in enumerate(tokens, tokenizer.vocab_size):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        content["added_tokens"].append({"id": i, "content": token, "special": True, **flags})
    return HuggingFaceTokenizer(json.dumps(content))


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


def test_a_mask_that_transformers_added_is_left_out(lossless, tmp_path):
    tokenizer = lossless["byte_fallback"]
    size = tokenizer.vocab_size
    with_tokens(tokenizer, "<mask>").save(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    roles = json.loads(config.read_text())
    alone = find_tokenizer(tmp_path, size)
    assert alone is not None
    assert alone.vocab_size == size + 1, "nothing says that it is a mask"
    config.write_text(json.dumps(roles | {"mask_token": {"content": "<mask>"}}))
    (tmp_path / "special_tokens_map.json").write_text('{"mask_token": "<mask>"}')
    fitted = find_tokenizer(tmp_path, size)
    assert fitted is not None
    check_vocabulary(fitted, size)
    assert fitted.encode("a <mask>") == tokenizer.encode("a <mask>")
    assert load_tokenizer(tmp_path, size + 1).vocab_size == size + 1
    (tmp_path / "again").mkdir()
    save_tokenizer(fitted, tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").vocab_size == size
    assert not (tmp_path / "again" / "special_tokens_map.json").exists()
