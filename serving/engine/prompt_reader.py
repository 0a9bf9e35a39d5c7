# SPDX-License-Identifier: Apache-2.0
"""Prefill of one prompt, a chunk a call, so that other sequences go on being decoded between."""

from collections.abc import Sequence

import jax
import numpy as np

from recurrentgemma.state import State
from serving.engine.programs import Programs
from serving.engine.transcript import TokenScore


class PromptReader:
    """Reads all of a prompt but its last token, with which decoding begins.

    scored: also find the log-probability of each of its tokens.
    state: what stands before the prompt, which this donates; None: nothing.
    """

    def __init__(
        self,
        programs: Programs,
        prompt: Sequence[int],
        *,
        scored: bool,
        state: State | None = None,
    ):
        self.scores = [TokenScore(token_id=prompt[0], logprob=None, top=())]
        self._walk = programs.read(prompt, scored=scored, state=state)

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
