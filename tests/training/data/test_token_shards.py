# SPDX-License-Identifier: Apache-2.0
"""Token shards, read: what is refused, some of them, a piece of a document."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from training.data import shard_tasks, shard_writer, token_shards
from training.data.documents import document_ids, tokenizer_fingerprint
from training.data.shard_folder import DiskFolder
from training.data.sources import open_data_source, open_text_source
from training.data.token_shards import TokenShards


def test_shards_hold_the_ids_of_the_texts_and_their_lengths(corpus: Path, whole: Path) -> None:
    source = open_text_source(f"jsonl:{corpus}/a.jsonl")
    shards = open_data_source(f"arrayrecord:{whole}")
    assert isinstance(shards, TokenShards)
    tokenizer = shards.load_tokenizer()
    assert (
        tokenizer_fingerprint(tokenizer)
        == json.loads((whole / "tokens.json").read_text())["tokenizer"]
    )
    assert len(shards) == len(source) == 1500
    text_bytes = 0
    for number in range(0, 1500, 7):
        text = source[number]
        ids = document_ids(tokenizer, text)
        np.testing.assert_array_equal(shards.read(number).ids, ids)
        assert shards.lengths[number] == len(ids)
        assert shards.text_bytes[number] == len(text.encode())
        text_bytes += len(text.encode())
    assert shards.bytes_per_token() == pytest.approx(
        shards.text_bytes.sum(dtype=float) / (shards.tokens - 1500)
    )
    assert shards.dtype == np.uint16
    assert {path.name for path in whole.iterdir()} == {
        ".lock",
        "documents.npy",
        "sums.npy",
        "tokenizer.model",
        "tokens.json",
        *(f"tokens-{n:05}-of-00009.array_record" for n in range(9)),
    }


def test_a_shard_of_another_size_or_content_is_refused(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "damaged"
    shutil.copytree(whole, out)
    shard = out / "tokens-00003-of-00009.array_record"
    content = shard.read_bytes()
    shard.write_bytes(content[:-100])
    with pytest.raises(ValueError, match=rf"{shard.name} has [\d,]+ bytes and was written with"):
        open_data_source(f"arrayrecord:{out}")
    middle = len(content) // 4
    shard.write_bytes(content[:middle] + b"damaged" * 9 + content[middle + 63 :])
    shards = TokenShards(out)
    with pytest.raises(ValueError, match=f"{shard.name} is damaged .*: delete it and run the same"):
        list(map(shards.read, range(len(shards))))
    np.save(out / "documents.npy", np.zeros((2, 7), np.uint32))
    with pytest.raises(ValueError, match=r"documents\.npy is damaged: it has shape \(2, 7\)"):
        open_data_source(f"arrayrecord:{out}")
    (out / "documents.npy").unlink()
    with pytest.raises(ValueError, match=r"documents\.npy is missing or damaged"):
        open_data_source(f"arrayrecord:{out}")
    (out / "tokens.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokens\.json is damaged"):
        open_data_source(f"arrayrecord:{out}")
    (out / "tokens.json").write_text('{"version": 9}')
    with pytest.raises(ValueError, match=r"tokens\.json has version 9, expected 1"):
        open_data_source(f"arrayrecord:{out}")


def test_shards_of_before_there_were_sums_are_the_same(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "old"
    shutil.copytree(whole, out)
    (out / "sums.npy").unlink()
    old, new = TokenShards(out), TokenShards(whole)
    assert old.fingerprint == new.fingerprint
    assert old.bytes_per_token() == new.bytes_per_token()
    np.testing.assert_array_equal(old.pair_sums, new.pair_sums)
    assert new.pair_sums.tolist() == [
        *(int((new.lengths[:n].astype(int) - 1).sum()) for n in (0, 1024, 1500))
    ]
    for number in (0, 1023, 1024, 1499):
        np.testing.assert_array_equal(old.read(number).ids, new.read(number).ids)
    np.save(out / "sums.npy", np.zeros((2, 2), np.int64))
    with pytest.raises(ValueError, match=r"sums\.npy is damaged: it has shape \(2, 2\); delete it"):
        TokenShards(out)


def test_some_of_the_shards(whole: Path) -> None:
    every = TokenShards(whole)
    some = open_data_source(f"arrayrecord:{whole}/tokens-0000[13]-*")
    assert isinstance(some, TokenShards)
    kept = [*range(1500 * 1 // 9, 1500 * 2 // 9), *range(1500 * 3 // 9, 1500 * 4 // 9)]
    assert some.lengths.tolist() == every.lengths[kept].tolist()
    for place in (0, 166, 167, len(kept) - 1):
        np.testing.assert_array_equal(some.read(place).ids, every.read(kept[place]).ids)
    assert some.tokens == some.lengths.sum(dtype=int)
    assert some.fingerprint != every.fingerprint
    assert int(some.pair_sums[-1]) == some.tokens - len(some)
    one = open_data_source(f"arrayrecord:{whole}/tokens-0000[5-8]-*")  # the last four
    assert isinstance(one, TokenShards)
    assert one.lengths.tolist() == every.lengths[1500 * 5 // 9 :].tolist()
    np.testing.assert_array_equal(one.read(400).ids, every.read(1500 * 5 // 9 + 400).ids)
    with pytest.raises(ValueError, match=r"no shard of .* matches 'tokens-00009-\*'; it has"):
        open_data_source(f"arrayrecord:{whole}/tokens-00009-*")


@pytest.fixture(scope="module")
def long_documents(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    """Documents of 0, 1, 149 and 150 records' worth of bytes, with records of 10 ids."""
    folder = tmp_path_factory.mktemp("long")
    for number, length in enumerate((0, 8, 9, 1490, 1498, 3)):
        (folder / f"{number}.txt").write_text(("0123456789" * 150)[:length])
    with pytest.MonkeyPatch.context() as patch:
        # In this process, where the constant is another.
        patch.setattr(shard_tasks, "RECORD", 10)
        patch.setattr(token_shards, "RECORD", 10)
        roles = {"vocab_size": 261, "bos_id": 258, "eos_id": 257, "version": 1, "tokenizer": "x"}
        plan = {"dtype": "uint16", "shard_count": 1} | roles
        sources = [open_text_source(f"text:{folder}/*.txt")]
        (folder / "out").mkdir()
        shards = shard_tasks.Shards(DiskFolder(folder / "out"), sources, plan, {})
        shard_tasks.write_shard(shards, ByteTokenizer(), 0, report=lambda written: None)
        shard_writer._finish(shards, None)
        return TokenShards(folder / "out")


@given(st.data())
def test_a_piece_of_a_long_document_is_read_alone(long_documents: TokenShards, data) -> None:
    assert long_documents.lengths.tolist() == [2, 10, 11, 1492, 1500, 5]
    number = data.draw(st.integers(0, 5))
    start = data.draw(st.integers(0, 1600))
    stop = data.draw(st.none() | st.integers(0, 1600))
    length = (0, 8, 9, 1490, 1498, 3)[number]
    ids = [258, *("0123456789" * 150)[:length].encode(), 257]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_shards, "RECORD", 10)
        piece = long_documents.read(number, start, stop).ids
    assert piece.dtype == np.int32
    assert piece.tolist() == ids[start:stop]
