# SPDX-License-Identifier: Apache-2.0
"""Prefill of one prompt, a chunk a call, so that other sequences go on being decoded between."""

import jax
import numpy as np

from recurrentgemma.state import State
from serving.engine.programs import Programs
from serving.engine.request import TokenScore, token_scores


class PromptReader:
    """Reads all of a prompt but its last token, with which decoding begins.

    scored: also find the log-probability of each of its tokens but the first.
    state: what stands before the prompt, which this donates; None: nothing.
    """

    def __init__(
        self,
        programs: Programs,
        tokens_T: np.ndarray,
        *,
        scored: bool,
        state: State | None = None,
    ):
        self.tokens_left = len(tokens_T) - 1
        self.scores = [TokenScore(token_id=int(tokens_T[0]), logprob=None, top=())]
        self._walk = programs.read(tokens_T, scored=scored, state=state)

    @property
    def state(self) -> State:
        """Of what was read so far."""
        assert self._walk.state is not None
        return self._walk.state

    @property
    def finished(self) -> bool:
        return self._walk.finished

    def advance(self) -> None:
        """Read the next chunk and wait for it."""
        chunk, scores = self._walk.advance()
        if scores is not None:
            logp_1T, top_logp_1TN, top_tokens_1TN = jax.device_get(scores)
            assert chunk.targets_BT is not None
            targets_T = chunk.targets_BT[0, : chunk.lengths_B[0]]
            self.scores += token_scores(targets_T, logp_1T[0], top_logp_1TN[0], top_tokens_1TN[0])
        jax.block_until_ready(self._walk.state)
        self.tokens_left -= int(chunk.lengths_B[0])
