# SPDX-License-Identifier: Apache-2.0
"""The numbers, tables and plots of a dynamic evaluation, as Results.finish takes them."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from eval import plots
from eval.documents import Documents
from eval.dynamic.config import DynamicConfig
from eval.dynamic.flops import adapted_parameters, flops_per_token
from eval.dynamic.stream import DynamicScores
from eval.intervals import method, over_documents
from eval.perplexity import Score
from eval.positions import bucket_names
from eval.results import Table
from recurrentgemma.generation.lm import LanguageModel


def summary(
    lm: LanguageModel,
    choices: DynamicConfig,
    documents: Documents,
    static: DynamicScores | None,
    adapted: DynamicScores,
) -> dict[str, Any]:
    """Of the scores: the result, its tables and plots, as Results.finish takes them."""
    both = {"static": static, "adapted" if choices.learns else "static": adapted}
    scores = {name: one for name, one in both.items() if one is not None}
    flops = {
        name: flops_per_token(lm.config, choices if name == "adapted" else choices.static())
        for name in scores
    }
    result: dict[str, Any] = {"choices": choices.to_json(), "documents": []}
    for name, one in scores.items():
        result[name] = {
            **score_json(one.score),
            "flops_per_token": flops[name].per_token,
            "seconds": one.seconds,
            "by_source": by_source(one, documents.sources),
            "by_position": by_position(one),
        }
    result["adapted_parameters"] = adapted_parameters(lm.config, choices)
    result["updates"], result["forgotten"] = adapted.updates, adapted.forgotten
    for number, document in enumerate(adapted.documents):
        entry = {"name": document.name, "source": documents.sources[document.source]}
        entry |= score_json(document.score) | {"updates": document.updates}
        if static is not None:
            entry["static_bits_per_byte"] = static.documents[number].score.bits_per_byte
        if document.retained is not None:
            entry["forgotten"] = document.retained.forgotten
        result["documents"].append(entry)
    curves = []
    for name in scores:
        first, loss, low, high = (
            [_nan(bucket[key]) for bucket in result[name]["by_position"]]
            for key in ("first", "loss", "low", "high")
        )
        curves.append(plots.Line(name, first, loss, low, high))
    note = method(len(adapted.documents))
    draw = partial(
        plots.lines,
        curves=curves,
        title=f"Loss by position: {choices.describe()}",
        xlabel="tokens before (the bucket from here to the next)",
        ylabel="loss (nats per token)",
        log_x=True,
        note=note,
    )
    tables = [_scores_table(result, scores), _cost_table(result, scores, flops)]
    if adapted.forgotten is not None:
        rows = [
            (d.name, d.retained.before.bits_per_byte, d.retained.after.bits_per_byte)
            for d in adapted.documents
            if d.retained is not None
        ]
        title = "Bits per byte of the retained text, by document that was adapted to"
        columns = ("", "before", "after", "forgotten")
        tables.append(Table(title, columns, [(*row, row[2] - row[1]) for row in rows]))
    return {"result": result, "tables": tables, "plots": {"loss_by_position": draw}}


def by_position(scores: DynamicScores) -> list[dict[str, Any]]:
    """Mean loss of each bucket of position, with its interval over documents."""
    sums, buckets = scores.sums, []
    intervals = over_documents(sums.nats_UK, sums.tokens_UK)
    for index, name in enumerate(bucket_names(scores.edges)):
        if tokens := int(sums.tokens_UK[:, index].sum()):
            mean, low, high, count = intervals[index]
            ends = {"low": _none(low), "high": _none(high)}
            buckets.append(
                {"first": scores.edges[index], "name": name, "tokens": tokens, "loss": mean}
                | ends
                | {"documents": count}
            )
    return buckets


def by_source(scores: DynamicScores, sources: Sequence[str]) -> dict[str, Any]:
    """The score of each source's documents."""
    added: dict[str, Any] = {}
    for number, spec in enumerate(sources):
        parts = [d.score for d in scores.documents if d.source == number]
        columns = zip(*((p.nats, p.tokens, p.bytes) for p in parts), strict=True)
        if parts:
            added[spec] = score_json(Score(*(sum(column) for column in columns)))
    return added


def score_json(score: Any) -> dict[str, Any]:
    """A Score as JSON."""
    return {
        "bits_per_byte": score.bits_per_byte if score.bytes else None,
        "loss": score.nats / score.tokens if score.tokens else None,
        "nats": score.nats,
        "tokens": score.tokens,
        "bytes": score.bytes,
    }


def _scores_table(result: dict[str, Any], scores: dict[str, Any]) -> Table:
    names = [name for name in ("static", "adapted") if name in scores]
    rows = []
    for spec in [*result[names[-1]]["by_source"], "all"]:
        of = [result[n] if spec == "all" else result[n]["by_source"][spec] for n in names]
        bits = [one["bits_per_byte"] for one in of]
        gain = [bits[0] - bits[1]] if len(bits) == 2 and None not in bits else [None]
        rows.append([spec, *bits, *gain[: len(names) - 1], of[-1]["tokens"], of[-1]["bytes"]])
    columns = ("", *(f"{n}, bits per byte" for n in names), *["gain"][: len(names) - 1])
    return Table("Scores", (*columns, "tokens", "bytes"), rows)


def _cost_table(result: dict[str, Any], scores: dict[str, Any], flops: dict[str, Any]) -> Table:
    columns = ("", "FLOPs per token", "forward", "activations", "weights", "optimizer")
    rows = []
    for name, one in scores.items():
        tokens = max(one.score.tokens, 1)
        rows.append([name, flops[name].per_token, *flops[name], one.seconds, one.seconds / tokens])
    return Table("Cost", (*columns, "seconds", "seconds per token"), rows)


def _none(x: float) -> float | None:
    return None if math.isnan(x) else x


def _nan(x: float | None) -> float:
    return np.nan if x is None else x
