# SPDX-License-Identifier: Apache-2.0
"""Gemma's chat format: its text, and the chats that it cannot write."""

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat import chat_format, encode_chat, format_chat
from recurrentgemma.text.tokenizer import (
    ByteTokenizer,
    SentencePieceTokenizer,
    train_sentencepiece,
)


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


def test_a_developers_message_is_the_systems():
    turns = [{"role": "user", "content": "Hi"}]
    both = [[{"role": role, "content": "Be brief."}, *turns] for role in ("system", "developer")]
    assert format_chat(both[0]) == format_chat(both[1])


def test_an_answer_that_is_gone_on_with():
    chats = chat_format(ByteTokenizer())
    asked = [{"role": "user", "content": "Hi"}]
    begun = [*asked, {"role": "assistant", "content": "Hel<end_of_turn>"}]
    prompt = chats.encode(asked)
    assert chats.encode(begun, continues=True) == [*prompt, *b"Hel<end_of_turn>"]


def test_what_only_a_template_can_write():
    chats, asked = chat_format(ByteTokenizer()), [{"role": "user", "content": "Hi"}]
    called = [*asked, {"role": "assistant", "content": "", "tool_calls": [{}]}]
    cases: list[tuple[list, dict, str]] = [
        (asked, {"tools": [{}]}, "tools"),
        (asked, {"variables": {"a": 1}}, "chat_template_kwargs"),
        (called, {}, "messages.1.tool_calls"),
    ]
    for messages, options, field in cases:
        with pytest.raises(UserError, match="template") as caught:
            chats.encode(messages, **options)
        assert caught.value.field == field


def test_the_last_answer_only():
    talk = [{"role": role, "content": "a"} for role in ("user", "assistant") * 2]
    ids, answers = chat_format(ByteTokenizer()).encode_answers(talk)
    again, last = chat_format(ByteTokenizer()).encode_answers(talk, last_only=True)
    assert again == ids
    assert (sum(answers), sum(last)) == (4, 2)
    assert last[-2:] == [True, True]
