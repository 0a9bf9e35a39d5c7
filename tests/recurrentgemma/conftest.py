"""One tokenizer of every kind there is in the wild, trained here in a moment."""

import io
import json

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from recurrentgemma.text.tokenizer import (
    ByteTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    train_sentencepiece,
)

TEXT = [
    "To be, or not to be: that is the question:\nWhether 'tis nobler in the mind to suffer\n",
    "The slings and arrows of outrageous fortune, or to take arms.\n\n  Indented,  été 1601\n",
    "Die Grüße, naïve façade, 東京 の 日本語 🎉🎉\n",
]
CONTROL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def sentencepiece_with_prefix() -> SentencePieceTokenizer:
    """SentencePiece's own defaults: a space before the text, spaces merged, no pad."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 3),
        model_writer=model,
        model_type="unigram",
        vocab_size=330,
        byte_fallback=True,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return SentencePieceTokenizer(model.getvalue())


def byte_level() -> HuggingFaceTokenizer:
    """As GPT-2's: bytes under printable names."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return HuggingFaceTokenizer(tokenizer.to_str())


def byte_fallback(*, prefix: bool) -> HuggingFaceTokenizer:
    """As Gemma's, or with `prefix` as Llama's: SentencePiece's pieces in JSON."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    spaces = normalizers.Replace(" ", "▁")
    before = [normalizers.Prepend("▁")] if prefix else []
    after = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*before, spaces])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=CONTROL + BYTES, limit_alphabet=30, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT[:1], trainer)
    content = json.loads(tokenizer.to_str())  # the trainer takes the bytes for control tokens
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] in CONTROL]
    return HuggingFaceTokenizer(json.dumps(content))


def word_piece() -> HuggingFaceTokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=CONTROL, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return HuggingFaceTokenizer(tokenizer.to_str())


def odd_decoder() -> HuggingFaceTokenizer:
    """A decoder that rewrites text across tokens: nothing is sure before the end."""
    tokenizer = tokenizers.Tokenizer.from_str(word_piece().content)
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("ob", "0B")])
    return HuggingFaceTokenizer(tokenizer.to_str())


def with_tokens(tokenizer: HuggingFaceTokenizer, *tokens: str) -> HuggingFaceTokenizer:
    """The same with more ids at its end."""
    content = json.loads(tokenizer.content)
    for i, token in enumerate(tokens, tokenizer.vocab_size):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        content["added_tokens"].append({"id": i, "content": token, "special": True, **flags})
    return HuggingFaceTokenizer(json.dumps(content))


KINDS = {
    "bytes": ByteTokenizer,
    "sentencepiece": lambda: train_sentencepiece(TEXT * 3, 330),
    "sentencepiece_with_prefix": sentencepiece_with_prefix,
    "byte_level": byte_level,
    "byte_fallback": lambda: byte_fallback(prefix=False),
    "byte_fallback_with_prefix": lambda: byte_fallback(prefix=True),
    "word_piece": word_piece,
    "odd_decoder": odd_decoder,
}


@pytest.fixture(scope="session", params=list(KINDS))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Each of `KINDS` in turn."""
    return KINDS[request.param]()


@pytest.fixture(scope="session")
def lossless() -> dict[str, Tokenizer]:
    """Those that keep every character of a text."""
    names = ("bytes", "sentencepiece", "byte_level", "byte_fallback")
    return {name: KINDS[name]() for name in names}
