# SPDX-License-Identifier: Apache-2.0
"""DataConfig: which documents a run learns from, which it is scored on, and opening them."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Literal

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat import AUTO, GEMMA, chat_format, use_template
from recurrentgemma.text.tokenizer import Tokenizer, check_vocabulary
from training.data.chat_documents import ChatDocuments
from training.data.documents import (
    SAMPLES,
    Documents,
    Mixture,
    Tokenized,
    check_weights,
    tokenizer_fingerprint,
)
from training.data.held_out import HeldOut, open_held_out
from training.data.plays import plays
from training.data.sources import TextSource, open_data_source, spread
from training.data.sources.chat_lines import ChatLines
from training.data.sources.spec import parse_spec
from training.data.sources.text_files import heads_and_tails
from training.data.token_shards import TokenShards

SAMPLE_BYTES = 2**26  # of text that a tokenizer is trained on


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Sources of documents, as `training.data.sources` writes them.

    Raises ValueError: a spec, a weight or a number cannot be.
    """

    sources: tuple[str, ...] = ()
    """Documents to learn from: `text:GLOB`, `jsonl:GLOB?field=text`, `parquet:GLOB?column=text`,
    `arrayrecord:GLOB_OR_DIRECTORY`, `tfds:NAME/CONFIG:SPLIT`; `chat:GLOB` for conversations, of
    which only the answers are learned from."""
    weights: tuple[float, ...] = ()
    """The share of the tokens that each source gives, up to a common factor; none: equal shares."""
    epochs: float = 0.0
    """How often each document is learned from, of all sources equally often; 0: sources are gone
    through again and again, as far as the steps go."""
    chat_template: str = AUTO
    """How `chat:` sources are written: `auto`, by the tokenizer's own chat template, else in
    Gemma's format; `gemma`; or a file with a Jinja template. The run keeps it with its
    tokenizer."""
    eval_sources: tuple[str, ...] = ()
    """Documents that are never learned from."""
    long_documents: Literal["cut", "carry"] = "cut"
    """A document longer than a row is cut into pieces of their own, or goes on in the next batch
    with the model's state carried along."""
    in_memory: bool = False
    """Text is tokenised before the first step and kept: 4 bytes a token. Rows are then drawn from
    all documents at once; else each row of the batch reads one document after the other, so that
    few long documents make a model follow the one it is reading. Token shards are so in any
    case."""
    threads: int = 0
    """That tokenise; 0: one a core, up to 16. They change nothing but the speed."""

    def __post_init__(self) -> None:
        for spec in (*self.sources, *self.eval_sources):
            parse_spec(spec)
        if self.weights:
            check_weights(self.weights, len(self.sources))
        if not 0 <= self.epochs < math.inf:
            raise UserError(f"epochs={self.epochs}: expected a number above 0, or 0 for no end")
        if self.epochs and self.weights:
            raise UserError(
                f"weights={self.weights} have no effect with epochs={self.epochs}, by which every "
                f"document is learned from equally often; give one of them"
            )
        if self.long_documents not in ("cut", "carry"):
            raise UserError(f"long_documents={self.long_documents!r}: expected 'cut' or 'carry'")
        if self.in_memory and (self.epochs or self.long_documents == "carry"):
            other = f"epochs={self.epochs}" if self.epochs else "long_documents='carry'"
            raise UserError(
                f"in_memory=True has no effect with {other}, by which rows go through documents in "
                f"their order; give one of them"
            )
        if self.threads < 0:
            raise UserError(f"threads={self.threads}: expected 0 or more")
        if both := set(self.sources) & set(self.eval_sources):
            raise UserError(
                f"{', '.join(sorted(both))}: to learn from and to be scored on; choose one"
            )


def write_chats_by(tokenizer: Tokenizer, template: str) -> None:
    """Have a tokenizer write chats as DataConfig.chat_template says, and be saved so. Raises
    UserError: there is no such template."""
    if template == AUTO or (template == GEMMA and chat_format(tokenizer).name == GEMMA):
        return
    use_template(tokenizer, template)


def open_mixture(config: DataConfig, tokenizer: Tokenizer, *, vocab_size: int) -> Mixture:
    """The documents to learn from, as the model's ids.

    Raises ValueError: a source cannot be opened or has no text, another tokenizer made it, or the
    tokenizer has ids that a model of `vocab_size` has no embeddings for.
    """
    check_vocabulary(tokenizer, vocab_size)
    parts = tuple(_documents(spec, tokenizer, vocab_size) for spec in config.sources)
    if config.in_memory:
        parts = tuple(
            part.in_memory(config.threads) if isinstance(part, Tokenized) else part
            for part in parts
        )
    return Mixture(parts, config.weights or (1.0,) * len(parts))


def held_out(
    config: DataConfig, tokenizer: Tokenizer, *, vocab_size: int, limit: int | None = None
) -> Iterator[HeldOut]:
    """The documents to be scored on, in their order, or the first `limit` ids of each.

    Raises ValueError as open_mixture does.
    """
    for spec in config.eval_sources:
        documents = open_held_out(spec, tokenizer, vocab_size=vocab_size)
        for number in range(len(documents)):
            yield documents.read(number, limit)


def sample_texts(config: DataConfig) -> Iterator[str]:
    """Text of the sources for a tokenizer to be trained on: all of it, or of each source its share
    of SAMPLE_BYTES, in documents from its first to its last.

    Raises UserError: a source has token ids or chats instead, or cannot be opened.
    """
    sources = []
    for spec in config.sources:
        source = open_data_source(spec)
        if isinstance(source, ChatLines | TokenShards):
            holds = "token ids" if isinstance(source, TokenShards) else "conversations"
            raise UserError(
                f"tokenizer='sentencepiece' is trained on text, and {spec!r} holds {holds}; give "
                "the path of a tokenizer, or 'bytes'"
            )
        sources.append(source)
    whole = sum(source.size for source in sources)
    for source in sources:
        share = min(1.0, SAMPLE_BYTES / max(whole, 1))
        for number in spread(len(source), math.ceil(share * len(source))):
            yield source[number]


def open_texts(files: Sequence[str]) -> tuple[TextSource, TextSource]:
    """What `--text FILE...` learns from and what it holds out; without files, the plays.

    Raises ValueError: a file is missing or too short, or the plays cannot be fetched.
    """
    return heads_and_tails(files) if files else plays()


def _documents(spec: str, tokenizer: Tokenizer, vocab_size: int) -> Documents:
    source = open_data_source(spec)
    if isinstance(source, ChatLines):
        return ChatDocuments(source, tokenizer)
    if not isinstance(source, TokenShards):
        _check_text(spec, source)
        return Tokenized(source, tokenizer)
    source.check(tokenizer_fingerprint(tokenizer), vocab_size)
    return source


def _check_text(spec: str, source: TextSource) -> None:
    """Raises UserError: none of up to SAMPLES documents, from the first to the last, has text."""
    looked_at = spread(len(source), SAMPLES)
    if not any(source[number] for number in looked_at):
        raise UserError(
            f"{spec!r}: there is no text in {len(looked_at):,} of its {len(source):,} documents, "
            "looked at from the first to the last; give another source, or name the field that "
            "holds the text"
        )
