"""stub"""

import dataclasses
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One sequence to complete. Sampling as in `LanguageModel.generate`; top_k = 0 keeps every
    token.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    logprobs: int | None = None  # how many of the likeliest tokens to report beside each token
    prompt_logprobs: bool = False  # report the prompt's tokens too, in the first event


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenScore:
    """A token with its log-probability (nats); `offset` is where it begins in its text, in
    characters.
    """

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]
    offset: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """What one step added to one sequence. The last event of a sequence has a finish_reason."""

    request_id: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    scores: tuple[TokenScore, ...] = ()
    prompt_scores: tuple[TokenScore, ...] = ()
    num_generated: int = 0  # so far, with the token that ended the answer
    finish_reason: FinishReason | None = None


class Engine:
    pass
