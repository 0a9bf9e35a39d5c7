# SPDX-License-Identifier: Apache-2.0
"""A session's speed beside `lm.generate`, and what it spares where a text is asked about twice.

    python -m recurrentgemma.generation.session_bench [--preset tiny] [--rounds 15]     two minutes

Both do the same work in turn, in one process, with the same compiled programs. Tokens a second are
those of the fastest of `--rounds`, and their ratio is the number on a busy machine; on a quiet one
the median of the rounds' ratios (lm's seconds over the session's) is as good. Expected: between
0.95 and 1.05 where the work is the same; the last line is many times faster. Numbers in
docs/performance.md.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

import numpy as np
from flax import nnx

from kernels.measure.command import options
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.session import Session
from recurrentgemma.griffin import Griffin
from recurrentgemma.memory import keep_freed_memory
from recurrentgemma.presets import preset
from recurrentgemma.text.byte_tokenizer import ByteTokenizer

Work = Callable[[], object]


def cells(lm: LanguageModel, prompt: int, answer: int) -> dict[str, tuple[int, Work, Work]]:
    """Name -> (tokens, by lm, by a session)."""
    ids = np.random.default_rng(0).integers(32, 127, prompt).tolist()
    text = bytes(ids).decode()
    read = _read(lm, ids)

    def in_pieces() -> object:
        session = lm.session()
        for start in range(0, prompt, -(-prompt // 100)):
            session.read(text[start : start - (-prompt // 100)])
        return session.generate(max_tokens=1)

    return {
        "read token ids": (
            prompt,
            lambda: lm.complete([ids], max_tokens=1),
            lambda: _read(lm, ids).complete(max_tokens=1),
        ),
        "read a text in 100 pieces": (
            prompt,
            lambda: lm.generate(text, max_tokens=1),
            in_pieces,
        ),
        "generate": (
            answer,
            lambda: lm.complete([ids[:16]], max_tokens=answer),
            lambda: _read(lm, ids[:16]).complete(max_tokens=answer),
        ),
        "stream": (
            answer,
            lambda: "".join(lm.stream(text[:16], max_tokens=answer)),
            lambda: "".join(lm.session().stream(text[:16], max_tokens=answer)),
        ),
        "ask again about what was read": (
            16,
            lambda: lm.complete([ids + ids[:16]], max_tokens=16),
            lambda: read.fork().complete(ids[:16], max_tokens=16),
        ),
    }


def _read(lm: LanguageModel, ids: list[int]) -> Session:
    session = lm.session()
    session.read(ids)
    return session


def measure(by_lm: Work, by_session: Work, rounds: int) -> list[tuple[float, float]]:
    """Seconds of both in each round, which they begin in turn."""
    for work in (by_lm, by_session):
        work()
        work()
    pairs = []
    for number in range(rounds):
        both = [(0, by_lm), (1, by_session)]
        seconds = {which: _seconds(work) for which, work in (both if number % 2 else both[::-1])}
        pairs.append((seconds[0], seconds[1]))
    return pairs


def _seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> None:
    """Print a line for each kind of work."""
    parser = options(__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--prompt", type=int, default=8000, help="tokens of what is read")
    parser.add_argument("--answer", type=int, default=128, help="tokens of an answer")
    arguments = parser.parse_args(argv)
    keep_freed_memory()
    config = preset(arguments.preset)
    config = dataclasses.replace(config, dtype=arguments.dtype, param_dtype=arguments.dtype)
    tokenizer = ByteTokenizer()
    tokenizer.stop_ids = ()  # answers of equal length
    lm = LanguageModel(Griffin(config, rngs=nnx.Rngs(0)), tokenizer)
    print("| work | lm tok/s | session tok/s | ratio | median of rounds | quartiles |")
    print("|---|---|---|---|---|---|")
    for name, (tokens, *both) in cells(lm, arguments.prompt, arguments.answer).items():
        pairs = measure(both[0], both[1], arguments.rounds)
        by_lm, by_session = (min(column) for column in zip(*pairs, strict=True))
        low, middle, high = statistics.quantiles([a / b for a, b in pairs], n=4)
        print(
            f"| {name} | {tokens / by_lm:,.0f} | {tokens / by_session:,.0f} "
            f"| **{by_lm / by_session:.3f}** | {middle:.3f} | {low:.3f} to {high:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
