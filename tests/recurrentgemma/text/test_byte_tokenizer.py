# SPDX-License-Identifier: Apache-2.0
"""Bytes as tokens: the ids, and the file."""

import json

import pytest

from recurrentgemma.text.byte_tokenizer import FILE, ByteTokenizer


def test_ids_are_the_bytes_and_the_turns():
    tokenizer = ByteTokenizer()
    text = "é<start_of_turn>\n<end_of_turn>"
    ids = [*"é".encode(), 259, 10, 260]
    assert tokenizer.encode(text) == [258, *ids]
    assert tokenizer.encode(text, bos=False) == ids
    assert tokenizer.decode([258, *ids, 257, 256]) == text
    assert tokenizer.decode([0xC3]) == "\ufffd"
    with pytest.raises(ValueError, match="token 261 is outside of the vocabulary, 0 to 260"):
        tokenizer.decode([261])


def test_a_file_of_its_own_another_version_and_another_file(tmp_path):
    ByteTokenizer().save(tmp_path)
    file = tmp_path / FILE
    assert ByteTokenizer.wrote(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad": 0}))
    with pytest.raises(ValueError, match=rf"{FILE} holds .*: expected"):
        ByteTokenizer.wrote(file)
    for other in ('{"model": {}}', "no JSON", json.dumps({"tokenizer": "bytes", "x": "y" * 999})):
        file.write_text(other)
        assert not ByteTokenizer.wrote(file)
