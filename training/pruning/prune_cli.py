# SPDX-License-Identifier: Apache-2.0
"""`griffin prune`: a checkpoint with fewer hidden units in its MLPs."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from eval.options import ModelPath, Sources
from eval.results import Table
from recurrentgemma.errors import UserError

EXAMPLES = """Remove hidden units of the MLPs: a smaller and faster model.

Without --keep only units go that are zero, or have one value, on the whole of --data: there the
model's logits stay what they are. With it the units that matter least on --data go, too, and
what they added on average stays (docs/pruning.md). All layers keep the same number.

examples:
  griffin prune runs/mine smaller --data 'text:books/*.txt'              exactly
  griffin prune runs/mine half --data 'text:books/*.txt' --keep 0.5
  griffin prune google/recurrentgemma-2b half --data 'jsonl:web.jsonl' --keep 0.5 --dtype bfloat16
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneArguments:
    path: ModelPath
    """A run, a checkpoint of any format, or a model's name on a hub."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """A directory that does not exist or is empty; it appears whole or not at all."""
    data: Sources
    """Documents that say what units do: `text:GLOB`, `jsonl:GLOB?field=text` and so on."""
    eval_data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SOURCE...")] = ()
    """Documents to score before and after; --data by default."""
    keep: float | None = None
    """The fraction of the units that stays; by default all that vary on --data."""
    criterion: Literal["variation", "magnitude", "random"] = "variation"
    """What goes first. variation: what the layer's output would miss least; magnitude: the smallest
    weights; random: for comparison."""
    multiple: int = 64
    """The number of units that stays is a multiple of this."""
    seed: int = 0
    """Of the criterion random."""
    batch_size: int = 8
    """Documents that are read side by side."""
    chunk_length: int = 512
    """Tokens of each that one call reads; it changes the speed alone."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of parameters and activations; by default as the checkpoint is stored."""
    config: str | None = None
    """A preset, or one of our config.json files, for a checkpoint that does not say what it is."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The last line of output is the result as one JSON object."""


def main(argv: list[str]) -> int:
    """Prune, print, and write. Raises UserError for what a user got wrong."""
    arguments = tyro.cli(PruneArguments, prog="griffin prune", description=EXAMPLES, args=argv)
    from eval.results import show

    result = prune(arguments)
    columns = ("", "MLP units a layer", "parameters", "bits per byte")
    rows = [[name, *result[name].values()] for name in ("before", "after")]
    table = Table("Pruned", columns, rows)
    show({"tables": [table._asdict()], "result": result}, as_json=False)
    exact = "exact on --data" if result["exact"] else f"by {arguments.criterion}"
    print(f"{result['removed']:,} of {result['units']:,} units removed, {exact}; {arguments.out}")
    if arguments.json:
        print(json.dumps(result))
    return 0


def check(arguments: PruneArguments) -> None:
    """Raises UserError: a number out of range, or an option without effect."""
    if min(arguments.batch_size, arguments.chunk_length) < 1:
        raise UserError("--batch-size and --chunk-length: expected at least 1")
    if arguments.criterion != "variation" and arguments.keep is None:
        raise UserError(
            f"--criterion {arguments.criterion} has no effect without --keep: only units go then "
            "of which nothing is missed"
        )
    if arguments.seed and arguments.criterion != "random":
        raise UserError(f"--seed {arguments.seed} has no effect without --criterion random")


def prune(arguments: PruneArguments) -> dict[str, Any]:
    """Write the smaller checkpoint; returns what --json prints."""
    from checkpoints import destination, store
    from eval.documents import SourceDocuments
    from eval.options import ModelOptions
    from eval.perplexity import score_all
    from eval.progress_bar import progress_bar
    from recurrentgemma.counts import parameter_count
    from recurrentgemma.params import flat_params, from_flat_params
    from recurrentgemma.text.tokenizer import save_tokenizer
    from training.pruning.activity import unit_activity
    from training.pruning.removal import choose_units, kept_width, remove_units

    check(arguments)
    destination.require_free(arguments.out)
    lm = ModelOptions(dtype=arguments.dtype, config=arguments.config).load(arguments.path)
    assert lm.tokenizer is not None
    kept_width(lm.config, keep=arguments.keep, multiple=arguments.multiple)
    vocab_size, sizes = lm.config.vocab_size, (arguments.batch_size, arguments.chunk_length)
    documents = SourceDocuments(arguments.data, lm.tokenizer, vocab_size=vocab_size)
    scored = documents
    if arguments.eval_data:
        scored = SourceDocuments(arguments.eval_data, lm.tokenizer, vocab_size=vocab_size)
    with progress_bar("reading") as bar:
        activity = unit_activity(
            lm.model,
            documents,
            batch_size=sizes[0],
            chunk_length=sizes[1],
            progress=lambda read: bar.update(read, ""),
        )
    flat = flat_params(lm.model)
    removal = choose_units(
        lm.config,
        flat,
        activity,
        keep=arguments.keep,
        criterion=arguments.criterion,
        multiple=arguments.multiple,
        seed=arguments.seed,
    )
    config, smaller = remove_units(lm.config, flat, activity, removal)
    sides = {}
    for name, model in (("before", lm.model), ("after", from_flat_params(config, smaller))):
        score = score_all(model, scored, batch_size=sizes[0], chunk_length=sizes[1]).score
        sides[name] = {
            "mlp_width": model.config.mlp_width,
            "parameters": parameter_count(model.config),
            "bits_per_byte": score.bits_per_byte,
        }
    with destination.new_directory(arguments.out) as folder:
        store.write(folder, smaller, config)
        save_tokenizer(lm.tokenizer, folder)
    return {
        **sides,
        "tokens": activity.tokens,
        "units": removal.keep_LF.size,
        "constant_units": int(removal.constant_LF.sum()),
        "removed": int((~removal.keep_LF).sum()),
        "exact": removal.is_exact,
        "criterion": arguments.criterion,
    }
