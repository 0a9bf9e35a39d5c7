"""The tokenizer over HTTP, in vLLM's shapes."""

import pytest

from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.chat import encode_chat, use_template
from recurrentgemma.text.gemma_chat import GEMMA_TEMPLATE

MESSAGES = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.fixture
def tokenizer(fake_engine):
    fake_engine.lm.tokenizer = ByteTokenizer()
    return fake_engine.lm.tokenizer


def test_text_to_tokens_and_back(ask, tokenizer):
    body = ask("POST", "/tokenize", json={"prompt": "Hé", "return_token_strs": True}).json()
    bos = tokenizer.bos_id
    assert body["tokens"] == [bos, 72, 0xC3, 0xA9]
    assert (body["count"], body["max_model_len"], len(body["token_strs"])) == (4, 1000, 4)
    plain = {"prompt": "Hé", "add_special_tokens": False}
    assert ask("POST", "/tokenize", json=plain).json()["tokens"] == [72, 0xC3, 0xA9]
    text = ask("POST", "/detokenize", json={"tokens": body["tokens"]}).json()
    assert text == {"prompt": "Hé"}
    assert ask("POST", "/tokenize", json={"prompt": ""}).json()["tokens"] == [bos]


def test_messages_to_tokens(ask, tokenizer):
    body = ask("POST", "/tokenize", json={"messages": MESSAGES}).json()
    assert body["tokens"] == encode_chat(tokenizer, MESSAGES)
    for fields, param in (
        ({"messages": MESSAGES, "add_generation_prompt": False}, "add_generation_prompt"),
        ({"messages": MESSAGES, "tools": [TOOL]}, "tools"),
    ):
        answer = ask("POST", "/tokenize", json=fields)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param


def test_what_it_is(ask, tokenizer):
    info = ask("GET", "/tokenizer_info").json()
    assert info["tokenizer_class"] == "ByteTokenizer"
    assert (info["bos_token_id"], info["vocab_size"]) == (tokenizer.bos_id, tokenizer.vocab_size)
    assert info["chat_template"] == GEMMA_TEMPLATE
    use_template(tokenizer, "{{ messages[-1].content }}")
    info = ask("GET", "/tokenizer_info").json()
    assert info["chat_template"] == "{{ messages[-1].content }}"


def test_without_a_tokenizer_and_outside_of_it(ask, tokenizer, fake_engine):
    answer = ask("POST", "/detokenize", json={"tokens": [1, tokenizer.vocab_size]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tokens"
    fake_engine.lm.tokenizer = None
    for method, path, body in (
        ("POST", "/tokenize", {"prompt": "a"}),
        ("POST", "/detokenize", {"tokens": [1]}),
        ("GET", "/tokenizer_info", None),
    ):
        answer = ask(method, path, json=body)
        assert answer.status_code == 400
        assert "has no tokenizer" in answer.json()["error"]["message"]
    assert ask("POST", "/tokenize", json={"model": "other", "prompt": "a"}).status_code == 404
