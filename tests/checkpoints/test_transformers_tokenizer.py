# SPDX-License-Identifier: Apache-2.0
"""What transformers gets of a tokenizer: the same ids, roles, stops and template, whatever the base
had. Read here with the `tokenizers` library; `tests/peers/tokenizers.py` asks transformers itself.
"""

import io
import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from checkpoints import transformers_tokenizer
from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import (
    ByteTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    find_tokenizer,
    load_tokenizer,
)
from tests.recurrentgemma.conftest import KINDS, TEXT

TURNS = ["<start_of_turn>", "<end_of_turn>"]


def llamas() -> SentencePieceTokenizer:
    """As Llama's: byte-pair, a space before the text, and turns that are always whole."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 3), model_writer=model, model_type="bpe", vocab_size=400,
        byte_fallback=True, hard_vocab_limit=False, user_defined_symbols=TURNS, num_threads=1,
        minloglevel=2,
    )  # fmt: skip
    return SentencePieceTokenizer(model.getvalue())


class Exported(dict):
    """A dictionary that Hypothesis need not print."""

    def __repr__(self) -> str:
        return ", ".join(self)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Exported:
    """name -> (tokenizer, its folder for transformers, its tokenizer.json as the library has it)"""
    folders = Exported()
    for name, make in (KINDS | {"llamas": llamas}).items():
        folder = tmp_path_factory.mktemp(name)
        tokenizer = make()
        transformers_tokenizer.write(folder, tokenizer)
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        folders[name] = tokenizer, folder, backend
    return folders


@given(
    pieces=st.lists(
        st.one_of(
            st.sampled_from([*TURNS, "  ", "\n", "the ", "▁", "é", "東京", "<0x41>", "<unk>"]),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        ),
        max_size=12,
    )
)
def test_the_ids_are_the_same(exported, pieces):
    text = "".join(pieces)
    for name, (tokenizer, _, backend) in exported.items():
        assert backend.encode(text).ids == tokenizer.encode(text), name


def test_roles_and_stops_are_the_same(exported):
    for name, (tokenizer, folder, backend) in exported.items():
        config = json.loads((folder / "tokenizer_config.json").read_text())
        ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
        for role, i in ids.items():
            token = config[f"{role}_token"]
            assert (None if token is None else backend.token_to_id(token)) == i, (name, role)
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast"  # reads it as it is
        assert config["add_bos_token"] == (tokenizer.bos_id is not None)
        stops = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
        stops = stops if isinstance(stops, list) else [stops]
        assert tuple(stops) == tokenizer.stop_ids
        has_turns = set(TURNS) <= tokenizer.control_tokens.keys()
        assert ("chat_template" in config) == has_turns


def test_it_is_read_here_as_it_was(exported):
    for name, (tokenizer, folder, _) in exported.items():
        again = load_tokenizer(folder, tokenizer.vocab_size)
        assert type(again) is type(tokenizer), name
        for text in transformers_tokenizer.SAMPLES:
            assert again.encode(text) == tokenizer.encode(text)
        assert set(again.stop_ids) == set(tokenizer.stop_ids)


def test_what_a_base_had_stays(tmp_path: Path):
    base, out = tmp_path / "base", tmp_path / "out"
    for folder in (base, out):
        folder.mkdir()
    KINDS["sentencepiece"]().save(base)
    files = {
        "tokenizer_config.json": {
            "tokenizer_class": "GemmaTokenizer",
            "chat_template": "{{ 'mine' }}",
            "mask_token": "<mask>",
            "additional_special_tokens": [*TURNS, "<elsewhere>"],
            "added_tokens_decoder": {"4": {"content": TURNS[0]}, "999": {"content": "<mask>"}},
            "auto_map": {"AutoTokenizer": ["a.B", None]},
            "model_max_length": 8192,
        },
        "generation_config.json": {"eos_token_id": [1, 5, 7], "temperature": 0.5},
        "special_tokens_map.json": {"mask_token": "<mask>"},
        "added_tokens.json": {},
    }
    for name, content in files.items():
        (base / name).write_text(json.dumps(content))
    (base / "chat_template.jinja").write_text("{{ 'mine too' }}")
    tokenizer = find_tokenizer(base)
    assert tokenizer is not None
    assert set(tokenizer.stop_ids) == {1, 5, 7}
    transformers_tokenizer.write(out, tokenizer)
    config = json.loads((out / "tokenizer_config.json").read_text())
    assert config["chat_template"] == "{{ 'mine' }}"
    assert config["model_max_length"] == 8192
    assert config["additional_special_tokens"] == TURNS
    assert config["added_tokens_decoder"].keys() == {"4"}
    assert not {"mask_token", "auto_map"} & config.keys()
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [1, 5, 7]
    assert generation["temperature"] == 0.5
    assert (out / "chat_template.jinja").read_text() == "{{ 'mine too' }}"
    assert (out / "tokenizer.model").read_bytes() == (base / "tokenizer.model").read_bytes()
    assert not (out / "special_tokens_map.json").exists()  # it names a token that is not there


@pytest.mark.parametrize("begins", [True, False], ids=["with bos", "without"])
def test_a_tokenizer_json_is_kept_if_it_gives_our_ids(tmp_path: Path, begins):
    backend = tokenizers.Tokenizer.from_str(KINDS["byte_fallback"]().content)
    if begins:
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 2)]
        )
    content = backend.to_str()
    transformers_tokenizer.write(tmp_path, HuggingFaceTokenizer(content))
    written = (tmp_path / "tokenizer.json").read_text()
    assert (written == content) == begins
    ids = tokenizers.Tokenizer.from_str(written).encode("To be").ids
    assert ids == HuggingFaceTokenizer(content).encode("To be")


def test_no_ids_that_differ_are_written(tmp_path: Path, monkeypatch):
    wrong = transformers_tokenizer.from_bytes(KINDS["bytes"]())
    monkeypatch.setattr(transformers_tokenizer, "from_sentencepiece", lambda _: wrong)
    with pytest.raises(ValueError, match="cannot be written for transformers"):
        transformers_tokenizer.write(tmp_path, KINDS["sentencepiece"]())


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000], ids=["cut", "list", "deep"])
def test_a_broken_file_beside_a_tokenizer_is_named(tmp_path: Path, content: str):
    tokenizer = ByteTokenizer()
    tokenizer.beside = {"special_tokens_map.json": content.encode()}
    with pytest.raises(UserError, match=r"special_tokens_map\.json beside the tokenizer: "):
        transformers_tokenizer.write(tmp_path, tokenizer)
