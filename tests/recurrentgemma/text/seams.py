# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of every kind that know turns and merge newlines, in which a chat has seams."""

import functools
import io
import json

import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from recurrentgemma.text.tokenizer import (
    ByteTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    train_sentencepiece,
)
from tests.recurrentgemma.conftest import BYTES, CONTROL, TEXT, byte_fallback

TEXTS = [*(text + "\n\n" for text in TEXT * 3), *["user\nWho?\n\nmodel\n\nParis<model\n"] * 5]
# As Llama's and others: newlines together with the spaces before them.
WORDS = tokenizers.Regex(r"\p{L}+|\s*[\r\n]+|\s+(?!\S)|\s+|.")


def with_prefix(model_type: str) -> SentencePieceTokenizer:
    """A space before each text; as unigram, newlines are spaces, and spaces one."""
    model = io.BytesIO()
    plain = model_type == "bpe"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        model_type=model_type,
        vocab_size=360,
        byte_fallback=True,
        hard_vocab_limit=False,
        user_defined_symbols=["<start_of_turn>", "<end_of_turn>"],
        normalization_rule_name="identity" if plain else "nmt_nfkc",
        remove_extra_whitespaces=not plain,
        num_threads=1,
        minloglevel=2,
    )
    return SentencePieceTokenizer(model.getvalue())


def byte_level() -> HuggingFaceTokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    words = pre_tokenizers.Split(WORDS, "isolated")
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, in_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return HuggingFaceTokenizer(tokenizer.to_str())


def metaspace(scheme: str) -> HuggingFaceTokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    spaces = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), spaces, decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=CONTROL + BYTES, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    content = json.loads(tokenizer.to_str())  # the trainer takes the bytes for control tokens
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] in CONTROL]
    return HuggingFaceTokenizer(json.dumps(content))


KINDS = {
    "bytes": ByteTokenizer,
    "sentencepiece": functools.cache(lambda: train_sentencepiece(TEXTS, 360)),
    "sentencepiece with a prefix": functools.cache(lambda: with_prefix("bpe")),
    "sentencepiece unigram": functools.cache(lambda: with_prefix("unigram")),
    "byte level": functools.cache(byte_level),
    "metaspace always": functools.cache(lambda: metaspace("always")),
    "metaspace first": functools.cache(lambda: metaspace("first")),
    "llama": functools.cache(lambda: byte_fallback(prefix=True)),
}


def merges(tokenizer: Tokenizer, before: str, text: str) -> bool:
    """Whether the ids of the whole text do not begin with those of `before`."""
    known = tokenizer.encode(before)
    return tokenizer.encode(before + text)[: len(known)] != known
