# SPDX-License-Identifier: Apache-2.0
"""`griffin eval diagnostics`: what a model's layers have become, and whether it can still learn."""

import dataclasses
import math
from typing import Annotated, Any

import tyro

from eval.options import Model, ModelOptions, ModelPath, Result, ResultOptions, Sources, identity
from eval.results import Results, open_results, show
from recurrentgemma.errors import UserError

EXAMPLES = """What a model's layers have become, and whether it can still learn.

Ranks of what each block gives, dead and linearised units of its MLP, saturated decays and gates of
its RG-LRU, norms, how often rows' gradients are against each other; the plasticity probe: how well
it learns random next tokens, or another domain, beside a fresh model; and, if asked for, the
Hessian's spectrum.

examples:
  griffin eval diagnostics runs/demo --data 'text:held_out/*.txt'
  griffin eval diagnostics runs/demo --data text:book.txt --layers 0 2 --probe.steps 0 --json
  griffin eval diagnostics runs/demo --data text:book.txt --probe.data 'jsonl:web/*.jsonl'
  griffin eval diagnostics runs/demo --data text:book.txt --curvature.iterations 30 --out results/d
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """The plasticity probe; it runs on one device."""

    steps: int = 100
    """Of the probe's optimizer; 0: no probe."""
    rows: int = 64
    """Rows to learn, at most: of --data, with random targets."""
    length: int = 128
    """Tokens in each."""
    batch_size: int = 8
    """Rows in a step."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SOURCE...")] = ()
    """Learn this text instead of random tokens: half of it, to be scored on the other half."""
    learning_rate: float = 0.0
    """0: the highest of the model's run, or 1e-3 where it is of none."""
    seed: int = 0
    """Of the fresh model and the targets."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurvatureOptions:
    """The spectrum of the loss's Hessian; on one device, with so many times the parameters."""

    iterations: int = 0
    """Of Lanczos; 0: no spectrum."""
    vectors: int = 1
    """Random directions that it begins with."""
    rows: int = 8
    """Rows of --data whose mean loss it is of, at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiagnosticsArguments:
    path: ModelPath
    """A run, a checkpoint of any format, or a model's name on a hub."""
    data: Sources
    """Documents, in the syntax of `griffin data`, of which the first tokens are read."""
    tokens: int = 16384
    """How many, rounded up to whole rows; a rank needs as many as the model's width, and better
    twice that."""
    sequence_length: int = 512
    """Tokens in a row, which is read from an empty state."""
    batch_size: int = 8
    """Rows at once; it changes speed and memory alone."""
    layers: Annotated[tuple[int, ...], tyro.conf.arg(metavar="LAYER...")] = ()
    """Only of these, from 0 on; by default all."""
    gradients: int = 16
    """Rows whose gradients are compared, at most, of the last block; 0: none."""
    probe: ProbeOptions = dataclasses.field(default_factory=ProbeOptions)
    curvature: CurvatureOptions = dataclasses.field(default_factory=CurvatureOptions)
    model: Model = dataclasses.field(default_factory=ModelOptions)
    result: Result = dataclasses.field(default_factory=ResultOptions)


def main(argv: list[str]) -> int:
    """Measure, print, and write. Raises UserError for what a user got wrong."""
    arguments = tyro.cli(
        DiagnosticsArguments, prog="griffin eval diagnostics", description=EXAMPLES, args=argv
    )
    record = evaluate(arguments)
    show(record, as_json=arguments.result.json, folder=arguments.result.out)
    return 0


def check(arguments: DiagnosticsArguments) -> None:
    """Raises UserError: a number out of range, or an option without effect."""
    probe, curvature = arguments.probe, arguments.curvature
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size {arguments.batch_size}: expected at least 1")
    if arguments.gradients < 0 or arguments.gradients == 1:
        raise UserError(f"--gradients {arguments.gradients}: expected 0, or at least 2 to compare")
    if probe.steps < 0 or curvature.iterations < 0:
        raise UserError("--probe.steps and --curvature.iterations: expected 0 or more")
    if min(probe.rows, probe.length, probe.batch_size) < 1:
        raise UserError("--probe.rows, --probe.length and --probe.batch-size: expected at least 1")
    if min(curvature.vectors, curvature.rows) < 1:
        raise UserError("--curvature.vectors and --curvature.rows: expected at least 1")
    if not probe.learning_rate >= 0 or math.isinf(probe.learning_rate):
        raise UserError(f"--probe.learning-rate {probe.learning_rate}: expected 0 or more")
    if not probe.steps and probe != dataclasses.replace(ProbeOptions(), steps=0):
        raise UserError("--probe options have no effect with --probe.steps 0")
    if not curvature.iterations and curvature != CurvatureOptions():
        raise UserError("--curvature options have no effect without --curvature.iterations")


def evaluate(arguments: DiagnosticsArguments) -> dict[str, Any]:
    """The content of result.json, new or from where it stopped: each part is kept."""
    from eval.diagnostics.diagnostics_summary import summary
    from eval.diagnostics.measuring import Measuring
    from eval.documents import SourceDocuments

    check(arguments)
    mesh = arguments.model.make_mesh()
    lm, model = arguments.model.load_on(arguments.path, mesh)
    assert lm.tokenizer is not None
    sources = {"data": arguments.data, "probe": arguments.probe.data}
    documents = {
        name: SourceDocuments(specs, lm.tokenizer, vocab_size=lm.config.vocab_size)
        for name, specs in sources.items()
        if specs
    }
    measuring = Measuring(arguments, lm, model, documents, mesh)
    settings = {
        "model": identity(lm),
        "data": {name: one.fingerprint for name, one in documents.items()},
        **{
            name: getattr(arguments, name)
            for name in ("tokens", "sequence_length", "layers", "gradients")
        },
        "probe": dataclasses.asdict(arguments.probe) | measuring.optimizer._asdict(),
        "curvature": dataclasses.asdict(arguments.curvature),
    }
    with open_results(arguments.result.out, kind="diagnostics", settings=settings) as results:
        if results.finished is not None:
            return results.finished
        parts = {name: _kept(results, name, part) for name, part in measuring.parts().items()}
        return results.finish(**summary(parts, lm.config, measuring.layers))


def _kept(results: Results, name: str, part: Any) -> dict[str, Any]:
    """What a part gives, or what was kept of it."""
    kept = results.kept(name)
    if kept is None:
        values = part()
        results.keep(name, values)
        return values
    return kept.values
