# SPDX-License-Identifier: Apache-2.0
"""`griffin eval dynamic`: documents scored while the model learns from them, beside static
scoring."""

import dataclasses
import math
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from eval.dynamic.config import DynamicConfig
from eval.options import Model, ModelOptions, ModelPath, Result, ResultOptions, Sources, identity
from eval.results import Results, open_results, show
from recurrentgemma.errors import UserError

if TYPE_CHECKING:
    from eval.dynamic.stream import DynamicScores
    from recurrentgemma.generation.lm import LanguageModel

EXAMPLES = """Dynamic evaluation: score a segment of text, learn from it, go on.

The model's state is carried, and no token is learned from before it is scored. Beside the adapted
scores stand static ones of the same reading, the FLOPs of both, and with --retention.data what was
forgotten of another text.

examples:
  griffin eval dynamic runs/demo --data 'text:books/*.txt'
  griffin eval dynamic runs/demo --data text:book.txt --parameters mlp --segment-length 64
  griffin eval dynamic runs/demo --data text:book.txt --parameters lora --lora.rank 4 \\
      --optimizer.algorithm adam --optimizer.learning-rate 1e-3
  griffin eval dynamic runs/demo --data text:book.txt --optimizer.algorithm rms \\
      --optimizer.learning-rate 1e-5 --optimizer.decay 1e-3 --statistics.data 'text:train/*.txt'
  griffin eval dynamic runs/demo --data 'jsonl:web.jsonl' --streams 64 --out results/web \\
      --retention.data text:held_out.txt
"""
LOSES = 0.01  # of the static loss: what adaptation may lose before it is warned of


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatisticsOptions:
    """Gradient statistics, for --optimizer.algorithm rms and --retain.method ewc."""

    file: Path | None = None
    """Where they are kept: read if the file is there, else made of the data and written."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SOURCE...")] = ()
    """Text that the model was trained on."""
    segments: int = 1024
    """How many segments of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetentionOptions:
    """What is forgotten of another text, measured with the parameters at each document's end."""

    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SOURCE...")] = ()
    """Held-out text of the domain that the model was trained on."""
    tokens: int = 100_000
    """At most so many of it; 0: all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicArguments:
    path: ModelPath
    """A run, a checkpoint of any format, or a model's name on a hub."""
    data: Sources
    """Documents, in the syntax of `griffin data`."""
    choices: Annotated[DynamicConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=DynamicConfig
    )
    streams: int = 1
    """Documents at once, each with adapted parameters of its own."""
    static: bool = True
    """Score without learning, too, to compare."""
    statistics: StatisticsOptions = dataclasses.field(default_factory=StatisticsOptions)
    retention: RetentionOptions = dataclasses.field(default_factory=RetentionOptions)
    replay_data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SOURCE...")] = ()
    """For --replay.of text: what is replayed, such as text that the model was trained on."""
    model: Model = dataclasses.field(default_factory=ModelOptions)
    result: Result = dataclasses.field(default_factory=ResultOptions)


def main(argv: list[str]) -> int:
    """Evaluate, print, and write. Raises UserError for what a user got wrong."""
    arguments = tyro.cli(
        DynamicArguments, prog="griffin eval dynamic", description=EXAMPLES, args=argv
    )
    record = evaluate(arguments)
    show(record, as_json=arguments.result.json, folder=arguments.result.out)
    if (warning := loses(record["result"], arguments.choices)) is not None:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def loses(result: Mapping[str, Any], choices: DynamicConfig) -> str | None:
    """What to do where learning has made the scores of a result clearly worse; else None."""
    if "static" not in result or "adapted" not in result:
        return None
    static, adapted = (result[name]["loss"] for name in ("static", "adapted"))
    if static is None or adapted <= static * (1 + LOSES):
        return None
    rate, norm = choices.optimizer.rate, choices.optimizer.clip_norm
    clipping = (
        f"lower --optimizer.clip-norm, which is {norm:g}" if norm else "set --optimizer.clip-norm"
    )
    return (
        f"learning made it worse: {adapted:.3f} nats per token, and {static:.3f} static; lower "
        f"--optimizer.learning-rate, which is {rate:g}, or {clipping}"
    )


def check(arguments: DynamicArguments) -> None:
    """Raises UserError: options that are out of range, or have no effect beside the others."""
    choices, statistics = arguments.choices, arguments.statistics
    if arguments.streams < 1:
        raise UserError(f"--streams {arguments.streams}: expected at least 1")
    if statistics != StatisticsOptions() and not choices.needs_statistics:
        raise UserError(
            "--statistics has no effect without --optimizer.algorithm rms, or --retain.method ewc "
            "or root-ewc"
        )
    if statistics.file is None and choices.needs_statistics and not statistics.data:
        by = "--optimizer.algorithm rms scales"
        if choices.optimizer.algorithm != "rms":
            by = f"--retain.method {choices.retain.method} weighs parameters"
        raise UserError(
            f"{by} by gradient statistics: give --statistics.data, text that the model was trained "
            "on, or --statistics.file"
        )
    if arguments.retention != RetentionOptions() and not arguments.retention.data:
        raise UserError("--retention.tokens has no effect without --retention.data")
    if not choices.learns and arguments.retention.data:
        raise UserError("--retention.data has no effect where nothing is learned")


def evaluate(arguments: DynamicArguments) -> dict[str, Any]:
    """The content of result.json, new or from where it stopped."""
    from eval.documents import SourceDocuments
    from eval.dynamic.learner import Learner
    from eval.dynamic.retained import Retention
    from eval.dynamic.stream import Evaluation
    from eval.dynamic.summary import summary

    check(arguments)
    choices = arguments.choices
    mesh = arguments.model.make_mesh()
    lm = arguments.model.load(arguments.path)
    assert lm.tokenizer is not None
    documents_of = partial(SourceDocuments, tokenizer=lm.tokenizer, vocab_size=lm.config.vocab_size)
    documents = documents_of(arguments.data)
    devices = 1 if mesh is None else mesh.size
    streams = -(-min(arguments.streams, len(documents)) // devices) * devices
    settings: dict[str, Any] = {
        "model": identity(lm),
        "data": {"sources": arguments.data, "fingerprint": documents.fingerprint},
        "choices": choices.to_json(),
        "rate": choices.optimizer.rate,  # what the defaults of `choices` are, today
        "eps": choices.optimizer.epsilon,
        "streams": streams,
        "static": arguments.static,
    }
    retention = replay_text = None
    if arguments.retention.data:
        held_out = documents_of(arguments.retention.data)
        retention = Retention(held_out, most=arguments.retention.tokens)
        settings["retention"] = {
            "fingerprint": held_out.fingerprint,
            "tokens": arguments.retention.tokens,
        }
    if arguments.replay_data:
        replayed = documents_of(arguments.replay_data)
        replay_text = [replayed.read(n).document.ids for n in range(len(replayed))]
        settings["replay"] = replayed.fingerprint
    statistics = _statistics(arguments, lm, settings, documents_of)
    with open_results(arguments.result.out, kind="dynamic", settings=settings) as results:
        if results.finished is not None:
            return results.finished
        learner = Learner(lm, choices, statistics=statistics, count=streams, mesh=mesh)
        run = Evaluation(learner, documents, replay_text=replay_text, retention=retention)
        static = None
        if arguments.static and choices.learns:
            plain = Learner(lm, choices.static(), count=streams, mesh=mesh)
            static = _run(Evaluation(plain, documents), results, "static")
        adapted = _run(run, results, "adapted" if choices.learns else "static")
        return results.finish(**summary(lm, choices, documents, static, adapted))


def _statistics(arguments, lm: "LanguageModel", settings: dict[str, Any], documents_of) -> Any:
    """The gradient statistics that are asked for, or None."""
    from eval.dynamic import statistics as gradients
    from eval.progress_bar import progress_bar

    options = arguments.statistics
    if not arguments.choices.needs_statistics:
        return None
    if options.file is not None and (options.file.is_file() or not options.data):
        measured = gradients.read(options.file)
    else:
        with progress_bar("gradient statistics", options.segments, unit="segments") as bar:
            measured = gradients.gradient_statistics(
                lm,
                documents_of(options.data),
                arguments.choices,
                segments=options.segments,
                progress=bar.update,
            )
        if options.file is not None:
            gradients.write(options.file, measured)
    settings["statistics"] = measured.fingerprint
    return measured


def _run(evaluation: Any, results: Results, name: str) -> "DynamicScores":
    from eval.progress_bar import progress_bar

    with progress_bar("scoring" if name == "static" else "adapting") as bar:

        def progress(tokens: int, mean: float) -> None:
            bar.update(tokens, f"{mean / math.log(2):.3f} bits a token")

        return evaluation.finish(results, progress, name=name)
