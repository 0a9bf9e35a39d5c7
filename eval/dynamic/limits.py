# SPDX-License-Identifier: Apache-2.0
"""What a model with global attention can hold of a document, or of a window."""

from eval.dynamic.config import DynamicConfig
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel


def check_lengths(lm: LanguageModel, choices: DynamicConfig) -> None:
    """Raises UserError: a segment with its overlap is more than a global attention block holds."""
    config = lm.config
    if "global_attention" in config.block_types and choices.tokens_read > config.context_length:
        raise UserError(
            f"overlap={choices.overlap} and segment_length={choices.segment_length} are more than "
            f"context_length={config.context_length}, the keys that a global attention block "
            "holds: choose shorter ones"
        )


def check_document(lm: LanguageModel, choices: DynamicConfig, tokens: int, name: str) -> None:
    """Raises UserError: a document is longer than a model with global attention holds."""
    config = lm.config
    if choices.state == "reset" or "global_attention" not in config.block_types:
        return
    if tokens - 1 > config.context_length:
        raise UserError(
            f"{name}: {tokens} tokens are more than context_length={config.context_length}, the "
            "keys that a global attention block holds: choose state=reset with an overlap, which "
            "reads windows"
        )
