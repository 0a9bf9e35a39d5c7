# SPDX-License-Identifier: Apache-2.0
"""A DataConfig opens what it names, and refuses what does not fit the model or its tokenizer."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from recurrentgemma.errors import UserError
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.tokenizer import (
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    load_tokenizer,
    train_sentencepiece,
)
from training.data.batches import Batches
from training.data.config import DataConfig, held_out, open_mixture, sample_texts
from training.data.documents import InMemory, tokenizer_fingerprint
from training.data.shard_writer import tokenise
from training.data.token_shards import TokenShards

TEXTS = [f"{n} green bottles hanging on the wall\n" * n for n in range(1, 30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """29 documents as text, as JSONL, and as token shards of bytes in `tokens`."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "text").mkdir()
    for number, text in enumerate(TEXTS):
        (folder / "text" / f"{number:02}.txt").write_text(text)
    lines = [json.dumps({"text": text}) + "\n" for text in TEXTS]
    (folder / "a.jsonl").write_text("".join(lines))
    tokenise([f"jsonl:{folder}/a.jsonl"], "bytes", folder / "tokens", shards=3, workers=1)
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sources": ("txt:a",)}, "unknown kind 'txt'; did you mean 'text'"),
        ({"eval_sources": ("jsonl:a?row=3",)}, "'row=3' is no option of jsonl"),
        ({"sources": ("text:a",), "weights": (1.0, 2.0)}, "2 weights for 1 sources; give one"),
        ({"sources": ("text:a",), "weights": (0.0,)}, "weight 0.0: expected a number above 0"),
        ({"long_documents": "drop"}, "long_documents='drop': expected 'cut' or 'carry'"),
        ({"epochs": -1.0}, "epochs=-1.0: expected a number above 0, or 0"),
        ({"sources": ("text:a",), "weights": (1.0,), "epochs": 1.0}, "weights=.* have no effect"),
        ({"in_memory": True, "epochs": 1.0}, "in_memory=True has no effect with epochs=1.0"),
        ({"in_memory": True, "long_documents": "carry"}, "no effect with long_documents='carry'"),
        ({"threads": -1}, "threads=-1: expected 0 or more"),
        ({"sources": ("text:a",), "eval_sources": ("text:a",)}, "to learn from and to be scored"),
    ],
)
def test_a_config_that_cannot_be(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**fields)


@pytest.mark.parametrize("kind", ["text", "jsonl", "tokens", "all", "in memory"])
def test_every_kind_trains_on_the_same_documents(folder: Path, kind: str) -> None:
    specs = {
        "text": f"text:{folder}/text/*.txt",
        "jsonl": f"jsonl:{folder}/a.jsonl",
        "tokens": f"arrayrecord:{folder}/tokens",
    }
    specs["in memory"] = specs["text"]
    sources = tuple(specs.values())[:3] if kind == "all" else (specs[kind],)
    tokenizer = ByteTokenizer()
    config = DataConfig(sources=sources, in_memory=kind == "in memory")
    mixture = open_mixture(config, tokenizer, vocab_size=261)
    wanted = sum(len(text) + 1 for text in TEXTS)  # bytes and EOS
    assert mixture.bytes_per_token() == pytest.approx((wanted - 29) / wanted)
    batches = Batches(mixture, batch_size=4, row_length=256, seed=0, threads=2)
    assert ("streams" in batches.state()) == (kind not in ("tokens", "in memory"))
    texts = set()
    for _ in range(40):
        batch = next(batches)
        for tokens_T, positions_T in zip(batch.tokens_BT, batch.positions_BT, strict=True):
            tokens_T = np.asarray(tokens_T)[np.asarray(positions_T) >= 0]
            pieces = np.split(tokens_T, np.flatnonzero(np.asarray(positions_T) == 0)[1:])
            texts.update(tokenizer.decode(piece.tolist()) for piece in pieces)
    assert texts >= {text for text in TEXTS if len(text) < 100}
    assert all(any(text in whole for whole in TEXTS) for text in texts)


def test_shards_and_text_give_the_same_streams(folder: Path) -> None:
    def first(*sources: str) -> np.ndarray:
        config = DataConfig(sources=sources, long_documents="carry")
        mixture = open_mixture(config, ByteTokenizer(), vocab_size=261)
        batches = Batches(
            mixture, batch_size=2, row_length=99, seed=3, long_documents=config.long_documents
        )
        return np.stack([next(batches).tokens_BT for _ in range(20)])

    np.testing.assert_array_equal(
        first(f"jsonl:{folder}/a.jsonl"), first(f"arrayrecord:{folder}/tokens")
    )


def test_held_out_documents_come_with_the_bytes_that_they_spell(folder: Path) -> None:
    tokenizer = ByteTokenizer()
    config = DataConfig(eval_sources=(f"text:{folder}/text/0*", f"arrayrecord:{folder}/tokens"))
    documents = list(held_out(config, tokenizer, vocab_size=261))
    assert [scored.name.removeprefix(str(folder)) for scored in documents] == [
        *(f"/text/0{number}.txt" for number in range(10)),
        *(f"arrayrecord:{folder}/tokens, document {number}" for number in range(29)),
    ]
    for scored, text in zip(documents, [*TEXTS[:10], *TEXTS], strict=True):
        assert scored.document.ids.tolist() == tokenizer.encode(text)  # BOS, and no EOS to predict
        assert scored.document.learned is None
        assert scored.bytes == len(text.encode())


def test_the_first_ids_of_held_out_documents_come_with_their_own_bytes(folder: Path) -> None:
    config = DataConfig(eval_sources=(f"jsonl:{folder}/a.jsonl",))
    pieces = train_sentencepiece(TEXTS, 290)
    for start, text in zip(held_out(config, pieces, vocab_size=290, limit=20), TEXTS, strict=True):
        ids = pieces.encode(text)[:20]
        assert start.document.ids.tolist() == ids
        assert start.bytes == len(pieces.decode(ids))


def test_a_tokenizer_or_model_that_does_not_fit_is_refused(folder: Path) -> None:
    config = DataConfig(sources=(f"arrayrecord:{folder}/tokens",))
    evaluated = dataclasses.replace(config, sources=(), eval_sources=config.sources)
    pieces = train_sentencepiece(TEXTS, 290)
    with pytest.raises(ValueError, match="tokenised by another tokenizer than the run's"):
        open_mixture(config, pieces, vocab_size=512)
    with pytest.raises(ValueError, match="tokenised by another tokenizer than the run's"):
        list(held_out(evaluated, pieces, vocab_size=512))
    assert len(open_mixture(config, ByteTokenizer(), vocab_size=261).parts[0]) == 29
    with pytest.raises(ValueError, match=r"261 ids and the model's vocabulary only 260"):
        open_mixture(config, ByteTokenizer(), vocab_size=260)
    with pytest.raises(ValueError, match="no sources to train on"):
        open_mixture(DataConfig(), ByteTokenizer(), vocab_size=261)


def test_ids_beyond_the_models_are_refused_whoever_says_so(folder: Path) -> None:
    """Shards whose metadata has more ids than the tokenizer of the same fingerprint."""
    shards = TokenShards(folder / "tokens")
    shards.vocab_size = 300
    with pytest.raises(ValueError, match=r"ids up to 299, and model\.vocab_size is only 299"):
        shards.check(tokenizer_fingerprint(ByteTokenizer()), 299)


def test_a_fingerprint_is_of_what_decides_the_ids(tmp_path: Path) -> None:
    pieces, fewer = train_sentencepiece(TEXTS, 300), train_sentencepiece(TEXTS, 290)
    pieces.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, SentencePieceTokenizer)
    prints = [
        tokenizer_fingerprint(tokenizer) for tokenizer in (pieces, again, fewer, ByteTokenizer())
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_setting_that_changes_no_id_changes_no_fingerprint() -> None:
    vocabulary = {"<s>": 0, "</s>": 1, "a": 2}
    content = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary)).to_str()

    def fingerprint(**config: object) -> str:
        return tokenizer_fingerprint(HuggingFaceTokenizer(content, config))

    assert fingerprint(model_max_length=5) == fingerprint(model_max_length=6)
    assert fingerprint(bos_token="</s>") != fingerprint(bos_token="<s>")


def test_sources_without_any_text_are_refused(tmp_path: Path) -> None:
    lines = [json.dumps({"text": ""})] * 40
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    spec = f"jsonl:{tmp_path}/a.jsonl"
    with pytest.raises(UserError, match=r"no text in 32 of its 40 documents.*name the field"):
        open_mixture(DataConfig(sources=(spec,)), ByteTokenizer(), vocab_size=261)
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[1:], json.dumps({"text": "a"})]))
    assert len(open_mixture(DataConfig(sources=(spec,)), ByteTokenizer(), vocab_size=261).parts[0])


def test_bytes_per_token_of_documents_without_text() -> None:
    assert InMemory([np.arange(5)]).bytes_per_token() is None
    assert InMemory([np.arange(5)], text_bytes=12).bytes_per_token() == 3.0


def test_a_tokenizer_is_trained_on_all_text_or_on_each_sources_share(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = DataConfig(sources=(f"text:{folder}/text/*.txt", f"jsonl:{folder}/a.jsonl"))
    assert list(sample_texts(both)) == TEXTS * 2
    monkeypatch.setattr("training.data.config.SAMPLE_BYTES", sum(map(len, TEXTS)) // 2)
    sampled = list(sample_texts(both))
    assert len(sampled) < len(TEXTS)
    assert {TEXTS[0], TEXTS[-1]} <= set(sampled)
    for spec, holds in ((f"arrayrecord:{folder}/tokens", "token ids"), ("chat:a", "conversations")):
        (folder / "chats.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
        spec = spec.replace("chat:a", f"chat:{folder}/chats.jsonl")
        with pytest.raises(ValueError, match=rf"is trained on text, and .* holds {holds}"):
            list(sample_texts(DataConfig(sources=(spec,))))
