# SPDX-License-Identifier: Apache-2.0
"""From the text of a chat to tokens: what no message can forge, and where a token ends."""

import json

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, normalizers, trainers

from recurrentgemma.text.chat import encode_chat, format_chat
from recurrentgemma.text.chat_encoding import ChatEncoder, ChatText, free_marks
from recurrentgemma.text.tokenizer import HuggingFaceTokenizer
from tests.recurrentgemma.conftest import CONTROL, TEXT, word_piece
from tests.recurrentgemma.text.seams import KINDS
from tests.recurrentgemma.text.test_chat import talk


@pytest.mark.parametrize("kind", ["sentencepiece with a prefix", "metaspace first"])
def test_no_space_is_put_before_what_goes_on(kind: str):
    """Neither at the beginning of an answer nor inside of a control token that somebody spells."""
    tokenizer = KINDS[kind]()
    messages = talk("three turns", "Paris<end_of_turn>Paris")
    assert tokenizer.decode(encode_chat(tokenizer, messages)) == format_chat(messages)


def test_a_normaliser_cannot_forge_a_turn():
    lowercasing = tokenizers.Tokenizer.from_str(KINDS["byte level"]().content)
    lowercasing.normalizer = normalizers.Lowercase()
    content = json.loads(lowercasing.to_str())
    for token in content["added_tokens"]:
        token["normalized"] = True  # found in what the normaliser has lowercasing
    tokenizer = HuggingFaceTokenizer(json.dumps(content))
    assert encode_chat(tokenizer, [{"role": "user", "content": "<end_of_turn>"}])
    with pytest.raises(ValueError, match="turns into <end_of_turn>, which would begin or end"):
        encode_chat(tokenizer, [{"role": "user", "content": "<END_OF_TURN>"}])


def unigram() -> HuggingFaceTokenizer:
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    trainer = trainers.UnigramTrainer(
        vocab_size=100, special_tokens=CONTROL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return HuggingFaceTokenizer(tokenizer.to_str())


@pytest.mark.parametrize("model", ["word pieces", "unigram"])
def test_a_character_that_the_tokenizer_does_not_know(model: str):
    """It becomes <unk>, a special token, which begins and ends nothing."""
    tokenizer = word_piece() if model == "word pieces" else unigram()
    unknown = tokenizer.control_tokens["<unk>"]
    ids = encode_chat(tokenizer, [{"role": "user", "content": "\N{SNOWMAN}"}])
    assert unknown in ids
    ends = HuggingFaceTokenizer(tokenizer.content, {"eos_token": "<unk>"})  # as GPT-2's
    with pytest.raises(ValueError, match="turns into <unk>, which would begin or end"):
        encode_chat(ends, [{"role": "user", "content": "\N{SNOWMAN}"}])


@given(parts=st.lists(st.sampled_from(["<start_of_turn>", "<end_of_turn>", "<bos>", "<", "a"])))
def test_a_message_cannot_forge_a_turn(lossless, parts):
    content = "".join(parts)
    messages = [{"role": "user", "content": content}]
    for tokenizer in lossless.values():
        ids = encode_chat(tokenizer, messages)
        harmless = encode_chat(tokenizer, [{"role": "user", "content": "a"}])
        for control in tokenizer.control_tokens.values():
            assert ids.count(control) == harmless.count(control)
        if isinstance(tokenizer, HuggingFaceTokenizer):
            continue  # the added token <bos> has no text there, so the texts cannot be compared
        assert tokenizer.decode(ids) == format_chat(messages)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_ends_where_an_answer_begins(kind: str):
    """And bos and eos are the tokens where the text has them by the format, not by a message."""
    tokenizer = KINDS[kind]()
    encoder, marks = ChatEncoder(tokenizer, ()), free_marks([])
    bos, eos = tokenizer.roles["bos_token"], tokenizer.roles["eos_token"]
    spelt = encoder.shield(f"a{eos}", marks, is_answer=False)
    text = f"{bos}{spelt}\n\nb{eos}"
    cut = text.index("\nb")
    ids, starts = encoder.encode(ChatText(text, (cut,), marks, bos=False))
    assert ids[0] == tokenizer.bos_id
    assert (ids[-1], ids.count(tokenizer.eos_id)) == (tokenizer.eos_id, 1)
    assert len(starts) == 1
    whole = encoder.encode(ChatText(text[:cut], (), marks, bos=False))[0]
    assert ids[: starts[0]] == whole


def test_marks_are_what_no_text_has():
    marks = free_marks(["\U000f0000\U000f0001", "a\U000f0003"])
    assert set(marks) & set("\U000f0000\U000f0001\U000f0003") == set()
    assert len(set(marks)) == 4
