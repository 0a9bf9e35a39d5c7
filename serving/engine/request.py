# SPDX-License-Identifier: Apache-2.0
"""What is asked of the engine and what it tells: requests, events, tokens with their scores.

T tokens, M 32-bit words of a bit a token, N reported likeliest tokens.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from recurrentgemma.errors import UserError
from recurrentgemma.generation.reading import Point
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.state import State
from serving.features.adapters import ServedAdapter

# From an answer's tokens so far, one more than before, to those that may come next, as bits, uint32
# [M] (draw.masked), one of them at least; None allows all.
AllowedTokens = Callable[[Sequence[int]], np.ndarray | None]


class TokenScore(NamedTuple):  # one for every token: it has to be cheap
    """A token with its log-probability (nats); `offset` is the character at which it begins."""

    token_id: int
    logprob: float | None  # None for a sequence's first token, which nothing predicts
    top: tuple[tuple[int, float], ...]  # the likeliest tokens in its place
    offset: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GenerationRequest:
    """One sequence to complete."""

    prompt: Sequence[int] | np.ndarray
    sampling: Sampling  # max_tokens of 0 only reads the prompt
    logprobs: int | None = None  # how many of the likeliest tokens to report beside each token
    prompt_logprobs: bool = False  # report the prompt's tokens too, in the first event
    before: Point | None = None
    """What stands before the prompt, a session: its text ends there, and what it has not read is
    read with the prompt. The last event then has the state after all tokens but the prompt's last
    one."""
    adapter: ServedAdapter | None = None  # None: the base
    constraint: Callable[[], AllowedTokens] | None = None
    """Constrains answers: called once for each sequence, and what it gives before each token."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """What one step added to one sequence. The last event of a sequence has a finish_reason."""

    request_id: int
    text: str = ""
    token_ids: tuple[int, ...] = ()  # a stop token too, but nothing of a stop string
    scores: tuple[TokenScore, ...] = ()  # of these tokens, if asked for
    prompt_scores: tuple[TokenScore, ...] = ()
    num_generated: int = 0  # so far, with the tokens that ended the answer
    finish_reason: Literal["stop", "length"] | None = None
    cached_tokens: int = 0  # of the prompt, which did not have to be read
    times: "Times | None" = None  # of the whole sequence, in its last event
    state: State | None = None  # see GenerationRequest.before
    error: UserError | None = None  # the answer was given up: of its last event, of no use else


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """When what became of a sequence, by time.monotonic()."""

    submitted: float
    admitted: float  # reading of its prompt began
    read: float  # its prompt is read
    ended: float


def token_scores(
    tokens_T: np.ndarray, logp_T: np.ndarray, top_logp_TN: np.ndarray, top_tokens_TN: np.ndarray
) -> list[TokenScore]:
    """The tokens with what the device reports of them, of which there may be more."""
    count = len(tokens_T)
    tops = zip(top_tokens_TN[:count].tolist(), top_logp_TN[:count].tolist(), strict=True)
    return [
        TokenScore(token_id=token, logprob=logp, top=tuple(zip(ids, logps, strict=True)))
        for token, logp, (ids, logps) in zip(
            tokens_T.tolist(), logp_T[:count].tolist(), tops, strict=True
        )
    ]
