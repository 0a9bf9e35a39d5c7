# SPDX-License-Identifier: Apache-2.0
"""A tokenizer.json: the roles that its config names, and what transformers adds to it."""

import json

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import (
    HuggingFaceTokenizer,
    check_vocabulary,
    find_tokenizer,
    load_tokenizer,
    save_tokenizer,
)
from tests.recurrentgemma.conftest import with_tokens


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
    for token, shown in (("<nowhere>", "<nowhere>"), (["<bos>"], "no such token"), (2, "no such")):
        config.write_text(json.dumps({"bos_token": token}))
        with pytest.raises(UserError, match=shown):
            load_tokenizer(tmp_path)


def test_a_file_without_what_may_be_left_out(lossless):
    content = json.loads(lossless["byte_level"].content)
    del content["added_tokens"], content["post_processor"], content["decoder"]
    tokenizer = HuggingFaceTokenizer(json.dumps(content), {"mask_token": ["<mask>"]})
    assert tokenizer.without_unused(3).encode("ab", bos=False) == tokenizer.encode("ab", bos=False)


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
