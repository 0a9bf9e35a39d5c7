# SPDX-License-Identifier: Apache-2.0
"""Gemma's chat format: its text, its tokens in training and inference, and what cannot forge it."""

import pytest

from recurrentgemma.errors import TemplateError
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.chat import encode_answers, encode_chat, format_chat, use_template
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


def test_chat_tokens_are_those_of_the_text(lossless):
    messages = [{"role": "system", "content": "é"}, {"role": "user", "content": "To be\n\n or"}]
    for tokenizer in lossless.values():
        assert encode_chat(tokenizer, messages) == tokenizer.encode(format_chat(messages))


def test_a_template_that_can_write_no_chat_is_refused_at_once():
    """But not for what it refuses itself."""
    tokenizer = ByteTokenizer()
    for template in ("a\n{{ no.name }}", "a\n{{ 'a' * 9 ** 9 }}"):
        with pytest.raises(TemplateError, match="line 2: the chat template"):
            use_template(tokenizer, template)
    assert not tokenizer.beside
    use_template(tokenizer, "{{ raise_exception('first a system message') }}")
    assert tokenizer.beside
