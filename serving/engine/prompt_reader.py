# SPDX-License-Identifier: Apache-2.0
"""Prefill of one prompt, a chunk a call, so that other sequences go on being decoded between."""

from collections.abc import Sequence

import jax
import numpy as np

from recurrentgemma.generation.decode import CHUNKS, padded_chunks
from serving.engine.programs import SCORED_CHUNKS, Programs
from serving.engine.transcript import TokenScore


class PromptReader:
    """Reads all of a prompt but its last token, with which decoding begins.

    scored: also find the log-probability of each of its tokens.
    """

    def __init__(self, programs: Programs, prompt: Sequence[int], *, scored: bool):
        self.state = programs.fresh()
        self.scores = [TokenScore(token_id=prompt[0], logprob=None, top=())]
        self._programs = programs
        self._scored = scored
        sizes = SCORED_CHUNKS if scored else CHUNKS
        inputs, targets = padded_chunks([prompt[:-1]], sizes), padded_chunks([prompt[1:]], sizes)
        self._chunks = list(zip(inputs, targets, strict=True))

    @property
    def finished(self) -> bool:
        return not self._chunks

    def advance(self) -> None:
        """Read the next chunk and wait for it."""
        (tokens_1T, lengths_1), (targets_1T, _) = self._chunks.pop(0)
        if not self._scored:
            self.state = self._programs.read(self.state, tokens_1T, lengths_1)
        else:
            scores, self.state = self._programs.score(self.state, tokens_1T, targets_1T, lengths_1)
            logp_1T, top_logp_1TN, top_tokens_1TN = jax.device_get(scores)
            count = int(lengths_1[0])
            self.scores += token_scores(
                targets_1T[0, :count], logp_1T[0], top_logp_1TN[0], top_tokens_1TN[0]
            )
        jax.block_until_ready(self.state)


def token_scores(
    tokens_T: np.ndarray, logp_T: np.ndarray, top_logp_TN: np.ndarray, top_tokens_TN: np.ndarray
) -> list[TokenScore]:
    """The tokens with what the device has found about them, of which there may be more."""
    count = len(tokens_T)
    tops = zip(top_tokens_TN[:count].tolist(), top_logp_TN[:count].tolist(), strict=True)
    return [
        TokenScore(token_id=token, logprob=logp, top=tuple(zip(ids, logps, strict=True)))
        for token, logp, (ids, logps) in zip(
            tokens_T.tolist(), logp_T[:count].tolist(), tops, strict=True
        )
    ]
