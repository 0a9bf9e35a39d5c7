# SPDX-License-Identifier: Apache-2.0
"""`griffin eval extrapolation`: loss by position, to many times the training length."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from eval.extrapolation import TIMES, Unit
from eval.options import (
    Model,
    ModelOptions,
    Ray,
    RayOptions,
    Result,
    ResultOptions,
    Sources,
    identity,
)
from eval.results import Results, open_results, show
from recurrentgemma.errors import UserError

EXAMPLES = """Loss by position far past the training length: figure 5 of the Griffin paper.

Long documents are cut into pieces of one length, each read from an empty state by every model.
Models that are trained at several lengths come together in one plot. They need one tokenizer.

examples:
  griffin eval extrapolation runs/griffin runs/mqa --data 'text:books/*.txt' --out results/far
  griffin eval extrapolation runs/griffin_256 --data text:book.txt --length 32768 --unit pieces
  griffin eval extrapolation runs/griffin --data 'text:books/*.txt' --out results/far --ray auto
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtrapolationArguments:
    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH...")]
    """Runs, checkpoints of any format, or models' names on a hub."""
    data: Sources
    """Long documents that none of them was trained on, in the syntax of `griffin data`."""
    length: int = 0
    """Tokens of a piece; 0: 32 times the longest training length."""
    trained_at: tuple[int, ...] = ()
    """The training length of each model; by default what its run says."""
    pieces: int = 0
    """Of a document, at most; 0: as many as it has."""
    unit: Unit = "documents"
    """What intervals are over. Pieces of one document are alike, so an interval over pieces is too
    narrow for other documents; over documents it needs several of them."""
    per_doubling: int = 1
    """Buckets of position, from one to twice as many tokens."""
    batch_size: int = 4
    """Pieces that are read side by side."""
    chunk_length: int = 512
    """Tokens of each that one call reads; it changes the speed, and last bits."""
    cluster: Ray = dataclasses.field(default_factory=RayOptions)
    model: Model = dataclasses.field(default_factory=ModelOptions)
    result: Result = dataclasses.field(default_factory=ResultOptions)


def main(argv: list[str]) -> int:
    """Measure, print, and write. Raises UserError for what a user got wrong."""
    arguments = tyro.cli(
        ExtrapolationArguments, prog="griffin eval extrapolation", description=EXAMPLES, args=argv
    )
    record = evaluate(arguments)
    show(record, as_json=arguments.result.json, folder=arguments.result.out)
    return 0


def evaluate(arguments: ExtrapolationArguments) -> dict[str, Any]:
    """The content of result.json, new or from where it stopped."""
    from checkpoints import hub
    from eval.documents import SourceDocuments
    from eval.extrapolation import extrapolation, family, labels, summary
    from eval.perplexity import rounded
    from recurrentgemma.counts import parameter_count

    if arguments.trained_at and len(arguments.trained_at) != len(arguments.paths):
        raise UserError(
            f"--trained-at has {len(arguments.trained_at)} lengths for {len(arguments.paths)} "
            "models: give one for each, in their order"
        )
    local = [hub.local_path(path) for path in arguments.paths]
    trained = list(arguments.trained_at) or [training_length(path) for path in local]
    known = [length for length in trained if length is not None]
    if not (arguments.length or known):
        raise UserError(
            "none of these models says how long its training sequences were: give --trained-at, or "
            "--length"
        )
    length = arguments.length or TIMES * max(known)
    mesh = arguments.model.make_mesh()
    batch_size, chunk_length = rounded(arguments.batch_size, arguments.chunk_length, mesh)
    identities, configs, tokenizers = [], [], []
    for path in arguments.paths:  # all of them, before anything is measured
        lm = arguments.model.load(path)
        identities.append(identity(lm))
        configs.append(lm.config)
        tokenizers.append(lm.tokenizer)
    if len({one["tokenizer"] for one in identities}) > 1:
        raise UserError(
            "these models have different tokenizers, so that their losses by token cannot be "
            "compared: give models with one tokenizer"
        )
    documents = SourceDocuments(arguments.data, tokenizers[0], vocab_size=configs[0].vocab_size)
    settings = {
        "models": dict(zip(arguments.paths, identities, strict=True)),
        "data": {"sources": arguments.data, "fingerprint": documents.fingerprint},
        "length": length,
        "trained_at": trained,
        "pieces": arguments.pieces,
        "unit": arguments.unit,
        "per_doubling": arguments.per_doubling,
        "batch_size": batch_size,
        "chunk_length": chunk_length,
    }
    with open_results(arguments.result.out, kind="extrapolation", settings=settings) as results:
        if results.finished is not None:
            return results.finished
        scored = _measure(arguments, documents, identities, length, mesh, results)
        families = [family(config) for config in configs]
        models = [
            extrapolation(
                scores,
                config,
                label=label,
                trained_at=at,
                parameters=parameter_count(config),
                unit=arguments.unit,
            )
            for scores, config, label, at in zip(
                scored, configs, labels(arguments.paths, families, trained), trained, strict=True
            )
        ]
        return results.finish(**summary(models))


def _measure(
    arguments: ExtrapolationArguments,
    documents: Any,
    identities: Sequence[dict[str, Any]],
    length: int,
    mesh: Any,
    results: Results,
) -> list[Any]:
    """The Scores of each model; those of models that are done are kept."""
    from eval.extrapolation import edges_of
    from eval.perplexity import Scores, score_all
    from eval.positions import Sums
    from eval.progress_bar import progress_bar
    from eval.ray_perplexity import Wanted, score_on_cluster
    from eval.windows import Pieces

    cut = Pieces(length, arguments.pieces or None)
    edges = edges_of(length, parts=arguments.per_doubling)
    scored = []
    for number, path in enumerate(arguments.paths):
        kept = results.kept(f"model-{number}")
        if kept is not None:
            sums = Sums(*(kept.arrays[name] for name in Sums._fields))
            scored.append(Scores(documents.sources, (), edges, sums))
            continue
        model = None
        if arguments.cluster.ray is None:
            _, model = arguments.model.load_on(path, mesh, context=length)
        with progress_bar(f"{number + 1} of {len(arguments.paths)}: {path}") as bar:

            def progress(read: int, nats: float, tokens: int, bar=bar) -> None:
                bar.update(read, f"{nats / tokens:.3f} nats a token" if tokens else "")

            if model is None:
                wanted = Wanted(
                    path,
                    arguments.model,
                    arguments.data,
                    arguments.batch_size,
                    arguments.chunk_length,
                    cut,
                    edges,
                    directory=os.getcwd(),
                    context=length,
                    model=identities[number],
                    documents=documents.fingerprint,
                )
                scores = score_on_cluster(
                    *(wanted, documents, arguments.cluster, results, progress),
                    per_row=1,  # a document has many pieces
                    name=f"group-{number}",
                )
            else:
                scores = score_all(
                    model,
                    documents,
                    batch_size=arguments.batch_size,
                    chunk_length=arguments.chunk_length,
                    mesh=mesh,
                    cut=cut,
                    edges=edges,
                    results=results,
                    name=f"rows-{number}",
                    progress=progress,
                )
        results.keep(f"model-{number}", {}, scores.sums._asdict())
        scored.append(scores)
    return scored


def training_length(path: Path) -> int | None:
    """Tokens of the sequences that a run was trained on; None where the path is no run of ours."""
    from checkpoints import store
    from checkpoints.model_json import read_json

    for folder in (path, path.parent.parent):  # a run, or one of its steps
        if (folder / store.CONFIG).is_file():
            train = read_json(folder / store.CONFIG).get("train") or {}
            return train.get("sequence_length", train.get("row_length"))
    return None
