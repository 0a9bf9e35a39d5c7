# SPDX-License-Identifier: Apache-2.0
"""Which chat template came with a tokenizer, and what is said of one that is broken."""

import json
from pathlib import Path

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat import chat_format, encode_chat, use_template
from recurrentgemma.text.chat_template_files import own_templates
from recurrentgemma.text.gemma_chat import GEMMA_TEMPLATE
from recurrentgemma.text.huggingface_tokenizer import HuggingFaceTokenizer
from recurrentgemma.text.tokenizer import find_tokenizer, save_tokenizer
from tests.recurrentgemma.text.chat_samples import CONFIG, TEMPLATES, TOOLS, TURNS, tokenizer_json
from tests.recurrentgemma.text.seams import KINDS

CHATML, MISTRAL = TEMPLATES["chatml"], TEMPLATES["mistral"]
NAMED = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": "T{{ tools }}"}]


def folder_of(path: Path, files: dict[str, object]) -> Path:
    """A Hugging Face tokenizer's folder, and what lies beside."""
    (path / "tokenizer.json").write_text(tokenizer_json(), "utf-8")
    config = files.pop("tokenizer_config.json", {})
    files["tokenizer_config.json"] = CONFIG | config if isinstance(config, dict) else config
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name).write_text(text, "utf-8")
    return path


PLACES = {
    "a file": ({"chat_template.jinja": CHATML}, "chat_template.jinja"),
    "the config": ({"tokenizer_config.json": {"chat_template": CHATML}}, "tokenizer_config.json"),
    "a list": ({"tokenizer_config.json": {"chat_template": NAMED}}, "tokenizer_config.json"),
    "a processor's": ({"chat_template.json": {"chat_template": CHATML}}, "chat_template.json"),
    "the file counts": (
        {"chat_template.jinja": CHATML, "tokenizer_config.json": {"chat_template": MISTRAL}},
        "chat_template.jinja",
    ),
}


@pytest.mark.parametrize("case", PLACES)
def test_where_a_template_lies(tmp_path: Path, case: str):
    files, name = PLACES[case]
    tokenizer = find_tokenizer(folder_of(tmp_path, dict(files)))
    assert tokenizer is not None
    expected = chat_format(HuggingFaceTokenizer(tokenizer_json(), CONFIG), CHATML)
    assert encode_chat(tokenizer, TURNS) == expected.encode(TURNS)
    assert name in own_templates(tokenizer)["default"].name
    assert tokenizer.control_tokens["<|im_end|>"] in tokenizer.stop_ids  # an answer ends there
    again = tmp_path / "again"
    again.mkdir()
    save_tokenizer(tokenizer, again)
    copy = find_tokenizer(again)
    assert copy is not None
    assert encode_chat(copy, TURNS) == expected.encode(TURNS)


def test_the_one_for_tools(tmp_path: Path):
    config = {"chat_template": NAMED}
    tokenizer = find_tokenizer(folder_of(tmp_path, {"tokenizer_config.json": config}))
    assert tokenizer is not None
    chats = chat_format(tokenizer)
    assert (
        tokenizer.decode(chats.encode([{"role": "user", "content": ""}], tools=TOOLS))[:2] == "T["
    )
    assert chats.encode(TURNS) == chat_format(tokenizer, "default").encode(TURNS)
    with pytest.raises(
        UserError, match="expected 'auto', 'gemma', 'default', 'tool_use', the path"
    ):
        chat_format(tokenizer, "rag")
    named = [{"name": "rag", "template": CHATML}, NAMED[1]]
    folder_of(tmp_path, {"tokenizer_config.json": {"chat_template": named}})
    tokenizer = find_tokenizer(tmp_path)
    assert tokenizer is not None
    with pytest.raises(UserError, match="named 'rag', 'tool_use' and none named 'default'"):
        encode_chat(tokenizer, TURNS)
    assert chat_format(tokenizer, "rag").encode(TURNS) == chats.encode(TURNS)


BROKEN = {
    "syntax": ({"chat_template.jinja": "a\n{% if %}"}, r"chat_template\.jinja, line 2: .*syntax"),
    "in the config": (
        {"tokenizer_config.json": {"chat_template": "\n\n{{ }"}},
        r"tokenizer_config\.json \(chat_template\), line 3: ",
    ),
    "no text": ({"tokenizer_config.json": {"chat_template": 3}}, "chat_template is a text, or a"),
    "no list": ({"tokenizer_config.json": {"chat_template": [1]}}, "found 1"),
    "no JSON": (
        {"chat_template.json": '{"chat_template"'},
        r"chat_template\.json .*not a JSON file",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_one_is_said_when_a_chat_is_written(tmp_path: Path, case: str):
    """The checkpoint loads all the same: a plain prompt needs no template."""
    files, message = BROKEN[case]
    tokenizer = find_tokenizer(folder_of(tmp_path, dict(files)))
    assert tokenizer is not None
    assert tokenizer.stop_ids == (tokenizer.eos_id, tokenizer.control_tokens["<end_of_turn>"])
    with pytest.raises(UserError, match=message):
        encode_chat(tokenizer, TURNS)


def test_a_template_put_in_its_place(tmp_path: Path):
    """It travels on, and what it ends answers with ends a generation."""
    tokenizer = HuggingFaceTokenizer(tokenizer_json(), CONFIG | {"chat_template": MISTRAL})
    (tmp_path / "my.jinja").write_text(CHATML, "utf-8")
    use_template(tokenizer, tmp_path / "my.jinja")
    assert tokenizer.control_tokens["<|im_end|>"] in tokenizer.stop_ids
    save_tokenizer(tokenizer, tmp_path)
    again = find_tokenizer(tmp_path)
    assert again is not None
    assert encode_chat(again, TURNS) == chat_format(tokenizer, CHATML).encode(TURNS)
    use_template(again, "auto")
    assert encode_chat(again, TURNS) == chat_format(tokenizer, CHATML).encode(TURNS)
    use_template(again, "gemma")
    assert chat_format(again).name == "gemma"
    assert encode_chat(again, TURNS) == chat_format(again, "gemma").encode(TURNS)
    with pytest.raises(UserError, match=r"no chat template 'absent\.jinja': expected 'auto'"):
        use_template(again, "absent.jinja")


@pytest.mark.parametrize("kind", KINDS)
def test_gemmas_format_as_a_template_has_the_same_ids(kind: str):
    """What an export to transformers has is what we write."""
    tokenizer = KINDS[kind]()
    chats = chat_format(tokenizer, GEMMA_TEMPLATE)
    assert chats.name != chat_format(tokenizer).name == "gemma"
    system = {"role": "system", "content": "Be brief.<end_of_turn>"}
    for messages in (TURNS, [system, *TURNS], [{"role": "user", "content": "<bos><eos>"}]):
        assert chats.encode(messages) == encode_chat(tokenizer, messages)
    messages = [TURNS[0], {"role": "assistant", "content": "\nParis"}, *TURNS[:2]]
    assert chats.encode_answers(messages) == chat_format(tokenizer).encode_answers(messages)
