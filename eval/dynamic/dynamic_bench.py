# SPDX-License-Identifier: Apache-2.0
"""What adapting costs beside static scoring: seconds and FLOPs a token, of each choice of
parameters, with one stream and with many.

    python -m eval.dynamic.dynamic_bench [--preset tiny] [--streams 64] [--rounds 5]    ten minutes

All variants score the same tokens in turn, in one process. Seconds are of the fastest of
`--rounds`, FLOPs by arithmetic (flops.py). The last column is what a token costs with many streams
at once, over what it costs with one: below 0.5 where many share the work. Numbers in
docs/dynamic_evaluation.md.
"""

import dataclasses
import time

import jax
import numpy as np
from flax import nnx

from eval.dynamic.config import DynamicConfig, OptimizerConfig
from eval.dynamic.flops import adapted_parameters, flops_per_token
from eval.dynamic.learner import Learner
from eval.dynamic.segments import Segment, cut, stacked
from kernels.measure.command import options
from recurrentgemma.config import GriffinConfig
from recurrentgemma.counts import parameter_count
from recurrentgemma.generation.lm import LanguageModel, load
from recurrentgemma.griffin import Griffin
from recurrentgemma.memory import keep_freed_memory
from recurrentgemma.presets import preset

VARIANTS = ("static", "all", "mlp", "recurrence", "attention", "biases", "lora")


def variant(name: str, length: int, algorithm: str) -> DynamicConfig:
    """The choices of a variant by name."""
    plain = DynamicConfig(segment_length=length)
    if name == "static":
        return plain.static()
    optimizer = OptimizerConfig(algorithm=algorithm, learning_rate=1e-6)  # type: ignore[arg-type]
    return dataclasses.replace(plain, parameters=name, optimizer=optimizer)  # type: ignore[arg-type]


def segments_of(choices: DynamicConfig, vocab_size: int, count: int, streams: int) -> list[Segment]:
    """So many segments of random documents, one after the other."""
    length = choices.segment_length
    random = np.random.default_rng(0)
    ids = random.integers(0, vocab_size, (streams, count * length + 1), np.int32)
    return [stacked([cut(choices, row, n * length, length) for row in ids]) for n in range(count)]


def seconds(learner: Learner, segments: list[Segment]) -> float:
    """Of all segments, the last one's scores and parameters waited for."""
    started = time.perf_counter()
    for segment in segments:
        scored = learner.step(segment, None)
    jax.block_until_ready((scored, learner.streams))
    return time.perf_counter() - started


def measure(
    lm: LanguageModel,
    names: list[str],
    *,
    length: int,
    algorithm: str,
    counts: dict[int, int],
    rounds: int,
) -> dict[str, dict[int, float]]:
    """Seconds a token by variant and number of streams. counts: segments for each number of
    streams."""
    best: dict[str, dict[int, float]] = {name: {} for name in names}
    for streams, count in counts.items():
        learners, work = {}, {}
        for name in names:
            choices = variant(name, length, algorithm)
            learners[name] = Learner(lm, choices, count=streams)
            work[name] = segments_of(choices, lm.config.vocab_size, count, streams)
            seconds(learners[name], work[name][:1])
        for number in range(rounds):
            for name in names if number % 2 == 0 else names[::-1]:
                token = seconds(learners[name], work[name]) / (count * length * streams)
                best[name][streams] = min(token, best[name].get(streams, token))
        del learners
    return best


def model(arguments) -> LanguageModel:
    """At --path, or a fresh one of a preset, with a vocabulary of bytes."""
    if arguments.path:
        return load(arguments.path)
    config: GriffinConfig = preset(arguments.preset)
    config = dataclasses.replace(config, vocab_size=arguments.vocab_size)
    return LanguageModel(Griffin(config, rngs=nnx.Rngs(0)))


def main(argv: list[str] | None = None) -> None:
    """Print a line for each variant."""
    parser = options(__doc__)
    parser.add_argument("--path", help="a run or checkpoint, in place of --preset")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--vocab-size", type=int, default=512)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--algorithm", default="sgd", choices=["sgd", "adam"])
    parser.add_argument("--segment-length", type=int, default=128)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--segments", type=int, default=16, help="with one stream, each round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(argv)
    keep_freed_memory()
    lm = model(arguments)
    many = arguments.streams
    measured = measure(
        lm,
        arguments.variants,
        length=arguments.segment_length,
        algorithm=arguments.algorithm,
        counts={1: arguments.segments, many: max(1, 2 * arguments.segments // many)},
        rounds=arguments.rounds,
    )
    print(
        f"{parameter_count(lm.config):,} parameters, {arguments.algorithm}, segments of "
        f"{arguments.segment_length} tokens\n"
    )
    print(
        f"| adapted | parameters | MFLOP/token | us/token | over static | us/token, {many} streams "
        f"| {many} over {many} times 1 |\n|---|---|---|---|---|---|---|"
    )
    static = measured.get("static", {}).get(1, float("nan"))
    for name, by_streams in measured.items():
        choices = variant(name, arguments.segment_length, arguments.algorithm)
        flops = flops_per_token(lm.config, choices).per_token
        print(
            f"| {name} | {adapted_parameters(lm.config, choices):,} | {flops / 1e6:.2f} "
            f"| {by_streams[1] * 1e6:.1f} | {by_streams[1] / static:.2f} "
            f"| {by_streams[many] * 1e6:.1f} | {by_streams[many] / by_streams[1]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
