# SPDX-License-Identifier: Apache-2.0
"""Small language models of bytes."""

import dataclasses
import functools

from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.params import flat_params, from_flat_params
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from tests.drawn import untrained
from tests.recurrentgemma.models import CONFIGS, SHORT


@functools.cache
def byte_model(kind: str) -> LanguageModel:
    """With random parameters: "griffin", or "mqa" of a context of 128 tokens. There are three more
    embeddings than bytes and control tokens."""
    config = dataclasses.replace(SHORT if kind == "griffin" else CONFIGS[kind], vocab_size=264)
    flat = flat_params(untrained(config))
    # So that some tokens are much likelier than others.
    flat["embedder/input_embedding"] = 4 * flat["embedder/input_embedding"]
    return LanguageModel(from_flat_params(config, flat), ByteTokenizer())
