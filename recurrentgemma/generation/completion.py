# SPDX-License-Identifier: Apache-2.0
"""Runs a batch of prompts to its end and turns what the device generates into answers.

B batch, C tokens of one call of `decode`.
"""

import dataclasses
import time
from collections.abc import Callable, Generator, Sequence
from typing import Literal

import jax
import numpy as np

from recurrentgemma.generation import decode
from recurrentgemma.generation.decode import CAPACITY, Decoded, DecodeOptions, DecodeState
from recurrentgemma.text.streaming import TextStream

BLOCK_SECONDS = 0.05  # a stream asks the device for as many tokens as take it about this long
STOP_BLOCK = 32  # tokens between two looks for a stop string, where nobody waits for the text


@dataclasses.dataclass(kw_only=True)
class Completion:
    """One answer, complete once it has a finish_reason."""

    text: str = ""  # cut before the stop string; empty for a model without a tokenizer
    tokens: list[int] = dataclasses.field(default_factory=list)
    """All that were generated but the stop token; those of a stop string are here."""
    logprobs: list[float] = dataclasses.field(default_factory=list)
    """In nats at temperature 1, a number for each token, if asked for."""
    top_logprobs: list[list[tuple[int, float]]] = dataclasses.field(default_factory=list)
    """For each token the likeliest ones, (token, nats), likeliest first, if asked for."""
    finish_reason: Literal["stop", "length"] | None = None


def run(
    generator: decode.Generator,
    start: Callable[[], DecodeState],
    options: DecodeOptions,
    texts: Sequence[TextStream | None],
    completions: Sequence[Completion],
    *,
    top: int | None,
    streamed: bool,
) -> Generator[list[str], None, DecodeState]:
    """Fill `completions`, and yield what each block of tokens adds to the text of each row. Returns
    where the rows stand in the end.

    start: gives the rows where they begin, and is called for the first block.
    options: as numpy arrays.
    streamed: blocks that begin with one token and grow, instead of blocks as long as possible.
    """
    most = STOP_BLOCK if any(text is not None and text.scans for text in texts) else CAPACITY
    steps = 1 if streamed else most
    decode_state, device_options = start(), jax.device_put(options)
    while True:
        start_s = time.perf_counter()
        decode_state, decoded = generator.advance(decode_state, device_options, steps, top=top)
        decoded, done_B = jax.device_get((decoded, decode_state.done_B))
        if streamed:
            steps_in_time = steps * BLOCK_SECONDS / (time.perf_counter() - start_s)
            steps = max(1, min(2 * steps, most, int(steps_in_time)))
        live = [i for i, completion in enumerate(completions) if completion.finish_reason is None]
        pieces = [""] * len(completions)
        for i in live:
            pieces[i] = _take(
                completions[i], texts[i], decoded, i, options.stop_BS[i], bool(done_B[i])
            )
        yield pieces
        if all(completion.finish_reason for completion in completions):
            return decode_state


def _take(
    completion: Completion,
    text: TextStream | None,
    decoded: Decoded,
    i: int,
    stop_S: np.ndarray,
    done: bool,
) -> str:
    """Add row i of `decoded` to its completion; returns the new text."""
    taken = int(decoded.taken_B[i])
    ended = taken > 0 and bool(np.isin(decoded.tokens_BC[i, taken - 1], stop_S))
    tokens = decoded.tokens_BC[i, : taken - ended].tolist()
    completion.tokens += tokens
    if decoded.logp_BC is not None:
        completion.logprobs += decoded.logp_BC[i, : len(tokens)].tolist()
        for top_N, logp_N in zip(
            decoded.top_tokens_BCN[i, : len(tokens)],
            decoded.top_logp_BCN[i, : len(tokens)],
            strict=True,
        ):
            top = zip(top_N.tolist(), logp_N.tolist(), strict=True)
            completion.top_logprobs.append(list(top))
    piece = text.push(tokens) if text else ""
    if done and text:
        piece += text.finish()
    completion.text += piece
    if ended or (text and text.stopped):
        completion.finish_reason = "stop"
    elif done:
        completion.finish_reason = "length"
    return piece
