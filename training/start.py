# SPDX-License-Identifier: Apache-2.0
"""What a pretraining run needs before its first step, and has no default of a toy's: text to learn
from, its tokenizer, and as many embeddings as that has ids.

`complete` fills in what follows from the rest, and what is still missing then is an error that
shows the command.
"""

import dataclasses
import os
from pathlib import Path

from checkpoints.load import named_tokenizer_of, open_checkpoint
from checkpoints.shapes import known_fields
from recurrentgemma.errors import UserError
from training.configs import TrainConfig
from training.data.documents import load_named_tokenizer
from training.data.sources.spec import parse_spec
from training.data.token_shards import holds_tokens
from training.pretraining import SETTINGS, rounded_vocabulary
from training.run import NO_TOKENIZER


def require_data(preset: str, config: TrainConfig) -> None:
    """Raises UserError: a model preset is to be trained, and nothing says on what."""
    if preset in SETTINGS and not (config.data.sources or config.text):
        raise UserError(
            f"{preset} has nothing to learn from: give it --data.sources, or --text for files of "
            f"text, such as `griffin train --preset {preset} --data.sources "
            f"'parquet:web/*.parquet' --tokenizer tokenizer.model --run-dir runs/{preset}` "
            f"(docs/training.md has a recipe; `--preset tiny_bytes` is a first run that needs none)"
        )


def complete(
    config: TrainConfig,
    *,
    tensor: int = 1,
    vocabulary_given: bool = False,
    saved: TrainConfig | None = None,
) -> TrainConfig:
    """The config of a model preset with its tokenizer and its vocabulary.

    The tokenizer is the one that was given, or that lies with the token shards or with init_from.
    The vocabulary is init_from's, or the tokenizer's ids, rounded up to a multiple of 128 for each
    device of the `tensor` axis. vocabulary_given: it stays as it is. saved: of the run that goes
    on; what was not given is as it was there.

    Raises UserError: there is no tokenizer, or it does not fit the vocabulary that was given.
    """
    tokenizer = config.tokenizer or (saved.tokenizer if saved else _tokenizer_of_data(config))
    config = dataclasses.replace(config, tokenizer=tokenizer)
    if saved is not None and not vocabulary_given:
        return _with_vocabulary(config, saved.model.vocab_size)
    if config.init_from:
        start = open_checkpoint(config.init_from)
        known = start.config.vocab_size if start.config else known_fields(start)["vocab_size"]
        if not tokenizer:
            tokenizer = named_tokenizer_of(start, config.init_from, known)[1]
            config = dataclasses.replace(config, tokenizer=tokenizer)
        if not vocabulary_given:
            config = _with_vocabulary(config, known)
    elif not vocabulary_given:
        if tokenizer == "sentencepiece":
            raise UserError(
                "tokenizer='sentencepiece' is trained with as many pieces as the model has "
                "embeddings: say how many, such as --model.vocab-size 32768"
            )
        if tokenizer:
            ids = load_named_tokenizer(tokenizer).vocab_size
            config = _with_vocabulary(config, rounded_vocabulary(ids, tensor))
    if not tokenizer:
        raise UserError(NO_TOKENIZER)
    return config


def _with_vocabulary(config: TrainConfig, size: int) -> TrainConfig:
    model = dataclasses.replace(config.model, vocab_size=size)
    return dataclasses.replace(config, model=model)


def _tokenizer_of_data(config: TrainConfig) -> str:
    """The folder of the first token shards among the sources, which holds their tokenizer."""
    for text in config.data.sources:
        spec = parse_spec(text)
        if spec.kind == "arrayrecord":
            where = Path(os.path.expanduser(spec.where))
            folder = where if where.is_dir() else where.parent
            if holds_tokens(folder):
                return str(folder)
    return ""
