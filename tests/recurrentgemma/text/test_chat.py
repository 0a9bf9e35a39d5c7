# SPDX-License-Identifier: Apache-2.0
"""Gemma's chat format: its text, its tokens in training and inference, and what cannot forge it."""

import json

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

from recurrentgemma.text.chat import encode_answers, encode_chat, format_chat
from recurrentgemma.text.tokenizer import (
    ByteTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    train_sentencepiece,
)
from tests.recurrentgemma.text.seams import KINDS, merges

TALKS = {
    "one turn": ["Who?"],
    "a system message": ["system: Be brief.", "Who?"],
    "three turns": ["Who?", "{}", "And then?", "{}", "Bye", "{}"],
    "an answer first": ["model: {}", "Who?"],
    "spaces": ["  Who? \n", "{} \n", "\n\nAnd?"],
}


def talk(name: str, answer: str) -> list[dict[str, str]]:
    """The messages of a talk, and an answer after them."""
    messages, role = [], "user"
    for text in [*TALKS[name], "{}"]:
        speaker, colon, content = text.partition(": ")
        role = speaker if colon else role
        content = (content if colon else text).format(answer)
        messages.append({"role": role, "content": content})
        role = "assistant" if role == "user" else "user"
    return messages


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TALKS)
def test_training_sees_the_ids_of_inference(kind: str, name: str):
    """Before each answer, the ids are those of the chat that asks for it; of a text without merges
    over the beginning of an answer, they are the ids of the whole text."""
    tokenizer = KINDS[kind]()
    for answer in ("Paris", " Paris", "\nParis", "\n\n Paris\n"):
        messages = talk(name, answer)
        ids, is_answer = encode_answers(tokenizer, messages)
        end, start = tokenizer.control_tokens["<end_of_turn>"], 0
        for number, message in enumerate(messages):
            if message["role"] not in ("assistant", "model"):
                continue
            start = is_answer.index(True, start)
            if number:
                assert encode_chat(tokenizer, messages[:number]) == ids[:start]
            start = is_answer.index(False, start) if False in is_answer[start:] else len(ids)
            assert ids[start - 1] == end  # which ends the generation, too
        assert start == len(ids)
        assert encode_chat(tokenizer, messages)[:start] == ids
        whole = tokenizer.encode(format_chat(messages))
        assert (whole[:start] == ids) == (not merges(tokenizer, "model\n", answer))


def test_the_newline_before_an_answer_is_no_part_of_it():
    tokenizer = KINDS["sentencepiece"]()
    [newline], [two] = (tokenizer.encode(text, bos=False) for text in ("\n", "\n\n"))
    ids, is_answer = encode_answers(tokenizer, talk("one turn", "\nParis"))
    first = is_answer.index(True)
    assert ids[first - 1 : first + 1] == [newline, newline]
    assert two in tokenizer.encode(format_chat(talk("one turn", "\nParis")))


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
        token["normalized"] = True  # found in what the normaliser has made
    tokenizer = HuggingFaceTokenizer(json.dumps(content))
    assert encode_chat(tokenizer, [{"role": "user", "content": "<end_of_turn>"}])
    with pytest.raises(ValueError, match="turns into <end_of_turn>, which would begin or end"):
        encode_chat(tokenizer, [{"role": "user", "content": "<END_OF_TURN>"}])


def test_chat_as_gemma_writes_it():
    messages = [
        {"role": "user", "content": "Hi "},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye"},
    ]
    assert format_chat(messages) == (
        "<start_of_turn>user\nHi <end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
    )
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert format_chat(system) == (
        "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n"
    )


def test_chat_tokens_are_those_of_the_text(lossless):
    messages = [{"role": "system", "content": "é"}, {"role": "user", "content": "To be\n\n or"}]
    for tokenizer in lossless.values():
        assert encode_chat(tokenizer, messages) == tokenizer.encode(format_chat(messages))


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


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "at least one"),
        ([{"role": "tool", "content": "x"}], "'tool'"),
        ([{"role": "user", "content": None}], "None"),
        ([{"role": "user"}], "content"),
        ([{"role": "system", "content": "x"}], "user turn"),
        ([{"role": "user", "content": "x"}, {"role": "system", "content": "x"}], "first"),
    ],
)
def test_bad_chats(messages, message):
    with pytest.raises(ValueError, match=message):
        format_chat(messages)


def test_chat_needs_turn_tokens(tmp_path):
    tokenizer = ByteTokenizer()
    plain = train_sentencepiece(["abc"], 300)
    assert isinstance(plain, SentencePieceTokenizer)
    without = SentencePieceTokenizer(plain.model.replace(b"<end_of_turn>", b"<end_of_tuna>"))
    with pytest.raises(ValueError, match="plain prompt"):
        encode_chat(without, [{"role": "user", "content": "x"}])
    assert encode_chat(tokenizer, [{"role": "user", "content": "x"}])
