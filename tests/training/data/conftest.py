# SPDX-License-Identifier: Apache-2.0
"""Words to tokenise, and their token shards."""

import json
import random
from pathlib import Path

import pytest

from recurrentgemma.text.tokenizer import train_sentencepiece
from training.data.shard_writer import tokenise
from training.data.token_shards import TokenShards


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,500 records of words, 2.6 MB, and a tokenizer of 400 pieces."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyzäß"
    words = ["".join(rng.choices(letters, k=rng.randint(1, 9))) for _ in range(3000)]
    texts = [" ".join(rng.choices(words, k=rng.randint(0, 600))) for _ in range(1500)]
    with (folder / "a.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    train_sentencepiece(texts[:50], 400).save(folder)
    return folder


@pytest.fixture(scope="session")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an uninterrupted call with two workers, not to be touched."""
    out = tmp_path_factory.mktemp("tokens") / "whole"
    seen = []
    spec = f"jsonl:{corpus}/a.jsonl"
    tokenise([spec], str(corpus), out, shards=9, workers=2, progress=seen.append)
    assert seen[0][:2] == (0, 1500)
    assert seen[-1] == (1500, 1500, *TokenShards(out).lengths.sum(keepdims=True), seen[-1].bytes)
    return out
