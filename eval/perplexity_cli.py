# SPDX-License-Identifier: Apache-2.0
"""`griffin eval perplexity`: loss and bits per byte of documents, by document, source and
position."""

import dataclasses
import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from eval.options import (
    Model,
    ModelOptions,
    ModelPath,
    Ray,
    RayOptions,
    Result,
    ResultOptions,
    Sources,
    identity,
)
from eval.results import Table, open_results, show
from recurrentgemma.errors import UserError

EXAMPLES = """Loss and bits per byte of documents of any length, the state carried to their end.

Many documents are read side by side, and a row takes the next one when its own ends. Memory does
not grow with the length. A model with global attention holds context_length tokens: it reads longer
documents by sliding windows (--window).

examples:
  griffin eval perplexity runs/demo --data 'text:held_out/*.txt'
  griffin eval perplexity runs/demo --data 'jsonl:web/*.jsonl' text:book.txt --out results/demo
  griffin eval perplexity runs/mqa --data text:book.txt --window 1024 --stride 512
  griffin eval perplexity google/recurrentgemma-2b --data text:book.txt --dtype bfloat16 --json
  griffin eval perplexity runs/demo --data 'jsonl:web/*.jsonl' --ray auto --ray-gpus 1
"""
LONGEST = 2**20  # the edge of the last bucket of position
SHOWN = 50  # documents in the table; documents.jsonl has all


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerplexityArguments:
    path: ModelPath
    """A run, a checkpoint of any format, or a model's name on a hub."""
    data: Sources
    """Documents, in the syntax of `griffin data`: `text:GLOB`, `jsonl:GLOB?field=text`,
    `chat:GLOB` (of which only answers are scored), `parquet:GLOB?column=text`,
    `arrayrecord:GLOB_OR_DIRECTORY`, `tfds:NAME/CONFIG:SPLIT`."""
    batch_size: int = 8
    """Documents that are read side by side."""
    chunk_length: int = 512
    """Tokens of each that one call reads; it changes the speed, and last bits."""
    window: int = 0
    """Read each document by sliding windows of so many tokens, each from an empty state; 0: whole,
    with the state carried."""
    stride: int = 0
    """Tokens from one window to the next; 0: half a window."""
    cluster: Ray = dataclasses.field(default_factory=RayOptions)
    model: Model = dataclasses.field(default_factory=ModelOptions)
    result: Result = dataclasses.field(default_factory=ResultOptions)


def main(argv: list[str]) -> int:
    """Score, print, and write. Raises UserError for what a user got wrong."""
    arguments = tyro.cli(
        PerplexityArguments, prog="griffin eval perplexity", description=EXAMPLES, args=argv
    )
    record = evaluate(arguments)
    show(record, as_json=arguments.result.json, folder=arguments.result.out)
    return 0


def evaluate(arguments: PerplexityArguments) -> dict[str, Any]:
    """The content of result.json, new or from where it stopped."""
    from eval.documents import SourceDocuments
    from eval.perplexity import rounded, score_all
    from eval.positions import doubling
    from eval.progress_bar import progress_bar
    from eval.ray_perplexity import PER_ROW, Wanted, score_on_cluster
    from eval.windows import Windows, check_window, whole

    if arguments.stride and not arguments.window:
        raise UserError(f"--stride {arguments.stride} has no effect without --window")
    mesh = arguments.model.make_mesh()
    lm, model = arguments.model.load_on(arguments.path, mesh)
    assert lm.tokenizer is not None
    cut, window = whole, {}
    if arguments.window:
        cut = Windows(arguments.window, arguments.stride or max(arguments.window // 2, 1))
        check_window(lm.config, cut.length)
        window = {"window": cut.length, "stride": cut.stride}
    documents = SourceDocuments(arguments.data, lm.tokenizer, vocab_size=lm.config.vocab_size)
    batch_size, chunk_length = rounded(arguments.batch_size, arguments.chunk_length, mesh)
    settings = {
        "model": identity(lm),
        "data": {"sources": arguments.data, "fingerprint": documents.fingerprint},
        "batch_size": batch_size,
        "chunk_length": chunk_length,
        **window,
    }
    with open_results(arguments.result.out, kind="perplexity", settings=settings) as results:
        if results.finished is not None:
            return results.finished
        with progress_bar("scoring") as bar:

            def progress(read: int, nats: float, scored: int) -> None:
                shown = f"{nats / scored / math.log(2):.3f} bits a token" if scored else ""
                bar.update(read, shown)

            if arguments.cluster.ray is not None:
                wanted = Wanted(
                    arguments.path,
                    arguments.model,
                    arguments.data,
                    arguments.batch_size,
                    arguments.chunk_length,
                    cut,
                    doubling(LONGEST),
                    directory=os.getcwd(),
                    context=0,
                    model=settings["model"],
                    documents=documents.fingerprint,
                )
                scores = score_on_cluster(
                    *(wanted, documents, arguments.cluster, results, progress), per_row=PER_ROW
                )
                return results.finish(**summary(scores, window=arguments.window))
            scores = score_all(
                model,
                documents,
                batch_size=batch_size,
                chunk_length=chunk_length,
                mesh=mesh,
                cut=cut,
                edges=doubling(LONGEST),
                results=results,
                progress=progress,
            )
        return results.finish(**summary(scores, window=arguments.window))


def summary(scores: Any, *, window: int = 0) -> dict[str, Any]:
    """Of Scores: the result, its tables, plots and files, as Results.finish takes them. window:
    tokens of the sliding windows that they were read by; 0: they were read whole."""
    from eval import plots
    from eval.intervals import method, over_documents
    from eval.positions import bucket_names

    sums, whole = scores.sums, scores.score
    positions = []
    intervals = over_documents(sums.nats_UK, sums.tokens_UK, groups_U=sums.numbers_U)
    for index, name in enumerate(bucket_names(scores.edges)):
        tokens = int(sums.tokens_UK[:, index].sum())
        if tokens:
            positions.append(
                {"first": scores.edges[index], "name": name, "tokens": tokens}
                | interval_json(intervals[index])
            )
    where, seen = "tokens before", ""
    if window:  # a position is one of the document, of which the model sees the end alone
        where, seen = "tokens before, in the document", f"read by windows of {window:,} tokens; "
    by_source = {spec: score_json(score) for spec, score in scores.by_source().items()}
    result = {
        **score_json(whole),
        "documents": len(scores.documents),
        "by_source": by_source,
        "by_position": positions,
    }
    columns = ("", "bits per byte", "nats per token", "perplexity", "tokens", "bytes")
    listed = [(spec, score) for spec, score in scores.by_source().items()]
    documents = [(one.name, one.score) for one in scores.documents if one.score.tokens]
    title = (
        f"The first {SHOWN} of {len(documents):,} documents"
        if len(documents) > SHOWN
        else ("By document")
    )
    tables = [
        Table("Scores", columns, [_row(*pair) for pair in [*listed, ("all", whole)]]),
        Table(title, columns, [_row(*pair) for pair in documents[:SHOWN]]),
        Table(
            f"Nats per token by position ({seen}{method(len(scores.documents))})",
            (where, "nats per token", "low", "high", "documents", "tokens"),
            [
                [p["name"], p["loss"], p["low"], p["high"], p["documents"], p["tokens"]]
                for p in positions
            ],
        ),
    ]
    line = plots.Line(
        "all documents",
        [p["first"] for p in positions],
        [p["loss"] for p in positions],
        [math.nan if p["low"] is None else p["low"] for p in positions],
        [math.nan if p["high"] is None else p["high"] for p in positions],
    )
    draw = partial(
        plots.lines,
        curves=[line],
        title="Loss by position",
        xlabel=f"{where} (the bucket from here to the next)",
        ylabel="loss (nats per token)",
        log_x=True,
        note=f"{seen}{method(len(scores.documents))}",
    )

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            for one in scores.documents:
                score = dataclasses.asdict(one.score)
                source = scores.sources[one.source]
                file.write(json.dumps({"name": one.name, "source": source, **score}) + "\n")

    return {
        "result": result,
        "tables": tables,
        "plots": {"loss_by_position": draw},
        "files": {"documents.jsonl": write},
    }


def score_json(score: Any) -> dict[str, Any]:
    """A Score as JSON; what would divide by nothing is None."""
    return {
        "bits_per_byte": score.bits_per_byte if score.bytes else None,
        "loss": score.loss,
        "perplexity": score.perplexity,
        "nats": score.nats,
        "tokens": score.tokens,
        "bytes": score.bytes,
    }


def interval_json(interval: Any) -> dict[str, Any]:
    """An Interval as JSON; ends that are not known are None."""
    mean, low, high, count = interval
    ends = (None if math.isnan(x) else x for x in (low, high))
    return {"loss": mean, **dict(zip(("low", "high"), ends, strict=True)), "documents": count}


def _row(name: str, score: Any) -> list[Any]:
    values = score_json(score)
    names = ("bits_per_byte", "loss", "perplexity", "tokens", "bytes")
    return [name, *(values[column] for column in names)]
