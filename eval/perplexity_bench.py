# SPDX-License-Identifier: Apache-2.0
"""The rate of `griffin eval perplexity` beside the bare forward pass.

    python -m eval.perplexity_bench [--preset tiny] [--rounds 9] [--tokens 262144]       minutes

The bare pass reads chunks [B, T] of random tokens with the state carried and gives each token's
log-probability: nothing is fed, fetched or summed up, and no row ever ends. Both go in turn, in one
process, a round each. Documents are of several kinds: all equally long; short and long ones mixed
(a lognormal of lengths, of which a tenth holds half of the tokens); one long one, an eighth of all,
among many short; and one that has half of the tokens, at whose end it is alone. Tokens a second are
those of the fastest round; the ratio is of these, and beside it the median of the rounds' ratios.
Expected: 0.8 or more. Numbers in docs/performance.md.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from eval.documents import InMemory
from eval.perplexity import score_all
from kernels.measure.command import options
from recurrentgemma.generation.walk import ChunkProgram, TokenChunk
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import token_log_probs
from recurrentgemma.memory import keep_freed_memory
from recurrentgemma.presets import preset
from training.data.document import Document
from training.data.held_out import HeldOut

KINDS = ("equal", "mixed", "one long", "one of half")


def lengths_of(kind: str, tokens: int, seed: int = 0) -> list[int]:
    """Lengths of documents that together have about so many tokens."""
    random = np.random.default_rng(seed)
    if kind == "equal":
        return [2048] * (tokens // 2048)
    if kind == "one long":
        return [tokens // 8, *[200] * (tokens * 7 // 8 // 200)]
    if kind == "one of half":
        return [tokens // 2, *[200] * (tokens // 2 // 200)]
    lengths: list[int] = []
    while sum(lengths) < tokens:
        lengths.append(int(np.clip(random.lognormal(6.5, 1.5), 16, tokens // 8)))
    return lengths


def bare(model: Griffin, batch: int, chunk: int, tokens: int) -> Callable[[], int]:
    """Reads about so many tokens; returns how many."""
    graphdef, params = nnx.split(model, nnx.Param)
    program = ChunkProgram(token_log_probs, graphdef, model.config)
    random = np.random.default_rng(1)
    tokens_BT = random.integers(0, model.config.vocab_size, (batch, chunk), np.int32)
    whole = TokenChunk(0, tokens_BT, tokens_BT, None, np.full(batch, chunk, np.int32))
    count = max(tokens // (batch * chunk), 1)

    def run() -> int:
        state, logp_BT = program.fresh(batch), None
        for _ in range(count):
            logp_BT, state = program(params, whole, state)
        jax.block_until_ready(logp_BT)
        return count * batch * chunk

    return run


def scoring(model: Griffin, batch: int, chunk: int, lengths: list[int]) -> Callable[[], int]:
    """Scores random documents of these lengths; returns how many tokens they have."""
    random = np.random.default_rng(2)
    ids = [random.integers(0, model.config.vocab_size, n + 1, np.int32) for n in lengths]
    documents = InMemory(HeldOut(str(n), Document(x), len(x)) for n, x in enumerate(ids))

    def run() -> int:
        scores = score_all(model, documents, batch_size=batch, chunk_length=chunk)
        assert scores.score.tokens == sum(lengths)
        return scores.score.tokens

    return run


def rates(work: Callable[[], int], beside: Callable[[], int], rounds: int) -> list[tuple]:
    """Tokens a second of both in each round, which they begin in turn."""
    for one in (work, beside):
        one()
    measured = []
    for number in range(rounds):
        pair = [(0, work), (1, beside)]
        rate = {which: _rate(one) for which, one in (pair if number % 2 else pair[::-1])}
        measured.append((rate[0], rate[1]))
    return measured


def _rate(work: Callable[[], int]) -> float:
    start = time.perf_counter()
    return work() / (time.perf_counter() - start)


def main(argv: list[str] | None = None) -> None:
    """Print a line for each kind of documents."""
    parser = options(__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=2**18, help="that a round reads")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--chunk-length", type=int, default=512)
    arguments = parser.parse_args(argv)
    keep_freed_memory()
    config = preset(arguments.preset)
    config = dataclasses.replace(config, dtype=arguments.dtype, param_dtype=arguments.dtype)
    model = Griffin(config, rngs=nnx.Rngs(0))
    sizes = arguments.batch_size, arguments.chunk_length
    print(f"{arguments.preset}, {arguments.dtype}, {sizes[0]} rows of {sizes[1]} tokens")
    print("| documents | bare tok/s | scored tok/s | ratio | median of rounds |")
    print("|---|---|---|---|---|")
    for kind in arguments.kinds:
        lengths = lengths_of(kind, arguments.tokens)
        measured = rates(
            scoring(model, *sizes, lengths),
            bare(model, *sizes, arguments.tokens),
            arguments.rounds,
        )
        scored, plain = (max(column) for column in zip(*measured, strict=True))
        median = statistics.median(a / b for a, b in measured)
        name = f"{kind}: {len(lengths):,} of {min(lengths):,} to {max(lengths):,} tokens"
        print(
            f"| {name} | {plain:,.0f} | {scored:,.0f} | **{scored / plain:.3f}** | {median:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
