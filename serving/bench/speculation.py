# SPDX-License-Identifier: Apache-2.0
"""What guessing tokens gains and costs, for one sequence at a time (docs/serving.md).

    python -m serving.bench.speculation runs/demo --draft runs/small
    python -m serving.bench.speculation griffin_100m     a preset, with random weights, over bytes

For each text, greedy and sampled: tokens a second of plain decoding and with guesses, the share of
guesses that stood, and tokens of a verification. The repetitive prompt is two lines, repeated;
the plain one is given by `--plain`, or is a short text. Plain decoding and guessing take turns, and
the fastest answer of each counts.
"""

import dataclasses
import sys
import time
from typing import Annotated

import tyro
from flax import nnx

import recurrentgemma as rg
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.presets import PRESETS, preset
from recurrentgemma.text.tokenizer import ByteTokenizer
from serving.engine.engine import Engine
from serving.engine.request import GenerationRequest
from serving.engine.speculation import Proposer
from serving.features.draft import DraftProposals
from serving.features.proposals import NgramProposer

REPETITIVE = "name: Anna, town: Rome, year: 1907\nname: Otto, town: Graz, year: 1911\n" * 6
PLAIN = "It was late in the evening when the letter came, and nobody in the house had expected it. "
RANDOM_VOCABULARY = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeculationBenchArguments:
    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """The model: a run, a checkpoint, or a name; or a preset."""
    draft: str | None = None
    """A smaller model with the same tokenizer; by default n-grams alone are measured."""
    plain: str = PLAIN
    slots: int = 1
    tokens: int = 256
    calls: int = 3
    least: float = 0.0
    """As --speculate-least of griffin serve."""


@dataclasses.dataclass(frozen=True)
class Measured:
    plain: float  # tokens a second
    guessing: float
    stood: float  # share of the guesses
    tokens_each: float  # of a verification


def main(argv: list[str]) -> int:
    arguments = tyro.cli(
        SpeculationBenchArguments,
        prog="python -m serving.bench.speculation",
        description=__doc__,
        args=argv,
    )
    lm = model(arguments.path)
    proposers: dict[str, Proposer] = {"n-grams": NgramProposer()}
    if arguments.draft is not None:
        proposers["draft"] = DraftProposals(rg.load(arguments.draft), lm, arguments.slots)
    print(f"{'':34} {'plain':>8} {'guessing':>8} {'gain':>6} {'stood':>6} {'tokens':>6}")
    for name, proposer in proposers.items():
        for text, result in measure(arguments, lm, proposer):
            print(
                f"{name + ', ' + text:34} {result.plain:8.1f} {result.guessing:8.1f} "
                f"{result.guessing / result.plain:5.2f}x {result.stood:6.0%} "
                f"{result.tokens_each:6.2f}",
                flush=True,
            )
    return 0


def model(path: str) -> LanguageModel:
    """Of a preset one with random weights, in float32, which says the same token again and again:
    the text that is easiest to guess."""
    if path not in PRESETS:
        return rg.load(path)
    config = dataclasses.replace(
        preset(path),
        vocab_size=RANDOM_VOCABULARY,
        dtype="float32",
        param_dtype="float32",
        scan_layers=False,
    )
    return LanguageModel(rg.Griffin(config, rngs=nnx.Rngs(0)), ByteTokenizer())


def measure(arguments: SpeculationBenchArguments, lm: LanguageModel, proposer: Proposer):
    """(text, Measured) of each."""
    least = arguments.least or None
    plain = Engine(lm, slots=arguments.slots)
    plain.warm_up()
    engine = Engine(lm, slots=arguments.slots, proposer=proposer, least_tokens=least)
    engine.warm_up()
    speculation = engine.speculation
    assert speculation is not None
    print(speculation.cost)
    for text, prompt in (("repetitive", REPETITIVE), ("plain", arguments.plain)):
        for temperature in (0.0, 0.8):
            sampling = Sampling(
                max_tokens=arguments.tokens, temperature=temperature, seed=1, ignore_eos=True
            )
            request = GenerationRequest(prompt=lm_tokens(lm, prompt), sampling=sampling)
            speculation.verified = speculation.proposed = speculation.accepted = 0
            speeds: dict[str, list[float]] = {"plain": [], "guessing": []}
            for _ in range(arguments.calls):
                speeds["plain"].append(_speed(plain, request))
                speeds["guessing"].append(_speed(engine, request))
            verified, stood = max(1, speculation.verified), speculation.accepted
            yield (
                f"{text}, {'greedy' if not temperature else 'sampled'}",
                Measured(
                    max(speeds["plain"]),
                    max(speeds["guessing"]),
                    stood / max(1, speculation.proposed),
                    (stood + verified) / verified,
                ),
            )


def lm_tokens(lm: LanguageModel, text: str) -> list[int]:
    assert lm.tokenizer is not None, "a model without a tokenizer"
    return lm.tokenizer.encode(text)


def _speed(engine: Engine, request: GenerationRequest) -> float:
    """Tokens a second of one answer, from its first token on."""
    engine.submit(request)
    began = count = None
    generated = 0
    while engine.busy:
        events = engine.step()
        for event in events:
            generated = event.num_generated
            if began is None:
                began, count = time.perf_counter(), generated
        if events and events[-1].finish_reason is not None:
            ended = time.perf_counter()
    assert began is not None
    assert count is not None
    return (generated - count) / (ended - began)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
