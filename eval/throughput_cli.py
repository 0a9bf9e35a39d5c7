# SPDX-License-Identifier: Apache-2.0
"""`griffin eval throughput`: time per token against context and batch."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from eval.options import Result, ResultOptions

DESCRIPTION = """Time per token of decoding against how much was read before, and against the batch.

The Griffin paper's figures 4 and 1b. Models are presets, which get random parameters (time does not
depend on them), or checkpoints. They take turns, so that whatever else runs slows them alike.

examples:
  griffin eval throughput griffin_100m hawk_100m mqa_100m --vocab-size 32768 --out speed    an hour
  griffin eval throughput google/recurrentgemma-2b --batch 1 8 --context 0 100000 --answer
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThroughputArguments:
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")]
    """Presets, runs, checkpoints, or names of models on a hub."""
    context: tuple[int, ...] = (0, 512, 2048, 8192, 32768)
    """Tokens read before those that are timed."""
    answer: tuple[int, ...] = (512, 1024, 2048, 4096)
    """Lengths of answers to nothing, whose tokens/s are taken at the best of the batches."""
    batch: tuple[int, ...] = (1, 16)
    """Rows that are decoded together."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of parameters and activations."""
    vocab_size: int = 0
    """Of presets; 0: as they are."""
    tokens: int = 16
    """A row's, timed together."""
    rounds: int = 5
    """In which the models take turns; the median is reported, and the least and most."""
    result: Result = dataclasses.field(default_factory=ResultOptions)


def main(argv: list[str]) -> int:
    """Measure, print, and write what was asked for."""
    arguments = tyro.cli(
        ThroughputArguments, prog="griffin eval throughput", description=DESCRIPTION, args=argv
    )
    return run(arguments)


def run(arguments: ThroughputArguments) -> int:
    """Raises UserError: there is no model, or no cell to measure."""
    from eval import results, throughput
    from eval.progress_bar import progress_bar
    from kernels.measure.bench import limits
    from recurrentgemma.errors import UserError

    if not arguments.models:
        raise UserError("there is no model to measure: name presets or checkpoints")
    cells = throughput.cells(arguments.context, arguments.answer, arguments.batch)
    if not cells:
        raise UserError("there is nothing to measure: give --context or --answer")
    settings = {
        name: value for name, value in dataclasses.asdict(arguments).items() if name != "result"
    }
    out = arguments.result.out
    with results.open_results(out, kind="throughput", settings=settings | _device()) as kept:
        if kept.finished is None:
            rows: list[dict[str, Any]] = []
            with progress_bar("throughput", len(cells), unit="cells") as bar:
                models: list[throughput.Measured] = []
                for done, cell in enumerate(cells):
                    name = f"batch-{cell.batch}-context-{cell.context}-answer-{cell.answer}"
                    before = kept.kept(name)
                    if before is None:
                        models = models or [_model(path, arguments) for path in arguments.models]
                        ((_, measured),) = throughput.throughput(
                            models, [cell], tokens=arguments.tokens, rounds=arguments.rounds
                        )
                        kept.keep(name, {"rows": measured})
                    else:
                        measured = before.values["rows"]
                    rows += measured
                    bar.update(done + 1, name)
            before = kept.kept("bandwidth")
            if before is None:
                bandwidth = limits(arguments.dtype, _device()["platform"])[0]
            else:
                bandwidth = before.values["bandwidth"]
            kept.keep("bandwidth", {"bandwidth": bandwidth})
            finish(kept, rows, bandwidth)
        assert kept.finished is not None
        results.show(kept.finished, as_json=arguments.result.json, folder=out)
    return 0


def finish(kept: Any, rows: Sequence[dict[str, Any]], bandwidth: float) -> None:
    """The result, its tables and its plots. bandwidth: bytes/s of a copy on this machine."""
    from eval.results import Table
    from eval.throughput import best_batches

    for one in rows:
        moved = one["parameter_bytes"] + one["state_bytes"]
        one["least_by_bandwidth"] = 1e3 * moved / bandwidth
    columns = ("model", "batch", "context", "ms a token", "least", "most", "tokens/s")
    columns += ("state, MB", "ms by bandwidth")
    after = Table(
        "Time of a token of each row (section 5, figure 4)",
        columns,
        [
            (
                *(one[name] for name in ("model", "batch", "context", "milliseconds", "least")),
                *(one[name] for name in ("most", "tokens_per_second")),
                one["state_bytes"] / 1e6,
                one["least_by_bandwidth"],
            )
            for one in rows
            if not one["answer"]
        ],
    )
    best = best_batches(rows)
    answers = Table(
        "Tokens/s of answers to nothing, at the best batch (figure 1b)",
        ("model", "answer", "batch", "tokens/s"),
        [tuple(one[n] for n in ("model", "answer", "batch", "tokens_per_second")) for one in best],
    )
    plots = {}
    batches = sorted({one["batch"] for one in rows if not one["answer"]})
    for batch in batches:
        plots[f"time_per_token_batch_{batch}"] = _time_plot(rows, batch)
    if best:
        plots["tokens_per_second"] = _answer_plot(best)
    tables = [table for table in (after, answers) if table.rows]
    kept.finish({"bandwidth": bandwidth, "rows": list(rows)}, tables=tables, plots=plots)


def _time_plot(rows: Sequence[dict[str, Any]], batch: int) -> Callable[[Path], None]:
    """Figure 4: milliseconds against context, the median and the least and most."""

    def draw(path: Path) -> None:
        from eval.plots import Line, lines

        curves = []
        for model in dict.fromkeys(one["model"] for one in rows):
            of = [r for r in rows if (r["model"], r["batch"], r["answer"]) == (model, batch, 0)]
            median, least, most = (
                [r[name] for r in of] for name in ("milliseconds", "least", "most")
            )
            curves.append(Line(model, [max(r["context"], 1) for r in of], median, least, most))
        lines(
            path,
            curves,
            title=f"Time of a token of each row, batch {batch}: median, least and most",
            xlabel="tokens read before",
            ylabel="milliseconds",
            log_x=True,
            log_y=True,
        )

    return draw


def _answer_plot(best: Sequence[dict[str, Any]]) -> Callable[[Path], None]:
    """Figure 1b."""

    def draw(path: Path) -> None:
        from eval.plots import Line, lines

        curves = []
        for model in dict.fromkeys(one["model"] for one in best):
            of = [one for one in best if one["model"] == model]
            rates = [one["tokens_per_second"] for one in of]
            curves.append(Line(model, [one["answer"] for one in of], rates))
        lines(
            path,
            curves,
            title="Answers to nothing: tokens/s at the best batch",
            xlabel="tokens of the answer",
            ylabel="tokens/s",
            log_x=True,
        )

    return draw


def _model(path: str, arguments: ThroughputArguments) -> Any:
    import jax
    from flax import nnx

    from eval.throughput import Measured
    from recurrentgemma.griffin import Griffin
    from recurrentgemma.presets import PRESETS, preset

    if path not in PRESETS:
        from recurrentgemma.errors import UserError, did_you_mean
        from recurrentgemma.generation.lm import load

        try:
            return Measured.of(path, load(path, dtype=arguments.dtype).model)
        except UserError as error:
            if Path(path).exists():
                raise
            raise UserError(f"{error}; nor is it a preset{did_you_mean(path, PRESETS)}") from error
    config = dataclasses.replace(
        preset(path), dtype=arguments.dtype, param_dtype=arguments.dtype, scan_layers=False
    )
    if arguments.vocab_size:
        config = dataclasses.replace(config, vocab_size=arguments.vocab_size)
    make = jax.jit(lambda: nnx.split(Griffin(config, rngs=nnx.Rngs(0)), nnx.Param)[1])
    return Measured(path, config, make())


def _device() -> dict[str, str]:
    import jax

    device = jax.devices()[0]
    return {"platform": device.platform, "device": device.device_kind}
