# SPDX-License-Identifier: Apache-2.0
"""What lies beside a tokenizer: it travels along, ends answers, and is named when it is broken."""

import codecs
import json
from pathlib import Path

import pytest

from recurrentgemma.text.tokenizer import find_tokenizer, load_tokenizer, save_tokenizer
from recurrentgemma.text.tokenizer_files import generation_stops, read_json

BROKEN = {"cut off": b'{"bos_tok', "a list": b"[1]", "latin-1": b'{"a": "\xe9"}', "empty": b""}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json"])
def test_a_broken_file_is_named(lossless, tmp_path: Path, name, content):
    lossless["byte_level"].save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: (not|expected)"):
        load_tokenizer(tmp_path)


def test_nested_too_deep(tmp_path: Path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"deep\.json: holds JSON nested too deeply"):
        read_json(tmp_path / "deep.json")


def test_a_byte_order_mark_is_no_harm(lossless, tmp_path: Path):
    tokenizer = lossless["byte_level"]
    tokenizer.save(tmp_path)
    for file in tmp_path.iterdir():
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    assert load_tokenizer(tmp_path).encode("To be") == tokenizer.encode("To be")


@pytest.mark.parametrize(
    ("stated", "stops"), [(None, ()), (7, (7,)), ([1, 107], (1, 107)), ([], ())], ids=str
)
def test_ids_that_end_an_answer(lossless, tmp_path: Path, stated, stops):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": stated}))
    assert generation_stops(tmp_path) == stops
    for name in ("bytes", "sentencepiece", "byte_level"):
        folder = tmp_path / name
        folder.mkdir()
        lossless[name].save(folder)
        own = load_tokenizer(folder).stop_ids
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stated}))
        assert load_tokenizer(folder).stop_ids == tuple(dict.fromkeys((*own, *stops)))


def test_stops_in_a_config_of_transformers(lossless, tmp_path: Path):
    """Where there is no generation_config.json; a run that starts from such a base keeps them."""
    (tmp_path / "run").mkdir()
    lossless["byte_level"].save(tmp_path)
    own = load_tokenizer(tmp_path).stop_ids
    (tmp_path / "config.json").write_text('{"model": {}, "eos_token_id": 9}')
    assert load_tokenizer(tmp_path).stop_ids == own  # a config.json of ours
    (tmp_path / "config.json").write_text('{"model_type": "x", "eos_token_id": [6, 9]}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.stop_ids == (*own, 6, 9)
    save_tokenizer(tokenizer, tmp_path / "run")
    assert load_tokenizer(tmp_path / "run").stop_ids == (*own, 6, 9)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert load_tokenizer(tmp_path).stop_ids == (*own, 7)


@pytest.mark.parametrize("stated", ["1", [1, "2"], -1, True, 1.5, {"a": 1}], ids=repr)
def test_what_is_no_id(tmp_path: Path, stated):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": stated}))
    with pytest.raises(ValueError, match=r"generation_config\.json: eos_token_id=.*expected a tok"):
        generation_stops(tmp_path)


def test_all_that_lies_beside_travels_along(lossless, tmp_path: Path):
    beside = {
        "chat_template.jinja": "{{ messages }}",
        "generation_config.json": '{"eos_token_id": [1, 5], "temperature": 0.5}',
        "special_tokens_map.json": "{}",
        "tokenizer_config.json": '{"chat_template": "x", "bos_token": "<bos>"}',
    }
    for kind in ("bytes", "sentencepiece", "byte_level"):
        first, second = tmp_path / kind / "first", tmp_path / kind / "second"
        for folder in (first, second):
            folder.mkdir(parents=True)
        lossless[kind].save(first)
        for name, text in beside.items():
            (first / name).write_text(text)
        tokenizer = find_tokenizer(first)
        assert tokenizer is not None
        save_tokenizer(tokenizer, second)
        assert {f.name for f in second.iterdir()} == {f.name for f in first.iterdir()}
        for name, text in beside.items():
            if (kind, name) == ("byte_level", "tokenizer_config.json"):
                saved = json.loads((second / name).read_text())  # names every role
                assert saved.items() >= json.loads(text).items()
            else:
                assert (second / name).read_text() == text
        again = find_tokenizer(second)
        assert again is not None
        assert again.stop_ids == tokenizer.stop_ids
        assert again.beside.keys() == tokenizer.beside.keys()
