# SPDX-License-Identifier: Apache-2.0
"""From the arguments of `griffin finetune --hyper.templates N` (or `--hyper.source FOLDER`) to a
HyperRun."""

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

from checkpoints import hyper_adapters
from checkpoints.hub_names import short_title
from recurrentgemma.errors import UserError
from recurrentgemma.hyper_adapters import HyperConfig, hyper_layers
from recurrentgemma.sharding import MeshConfig
from recurrentgemma.text.tokenizer import Tokenizer
from training.data.config import write_chats_by
from training.data.sources.chat_lines import PLAIN
from training.finetuning.finetune import WARMUP, chat_specs, read_base, read_examples
from training.finetuning.finetune_arguments import (
    FinetuneArguments,
    HyperArguments,
    every,
    given_of,
)
from training.finetuning.hyper_run import HyperRun

CODE_RATE, ALONE = 10.0, 0.03  # times the templates' rate; of a code whose templates are given
RATE = 2e-4
NO_EFFECT = ("eval_data", "lora", "prune", "retain", "weight_decay", "eval_every", "scan_layers")


class PreparedHyper(NamedTuple):
    """A run before its first step; summary: of data and size, for people."""

    config: HyperRun
    run_dir: Path
    tokenizer: Tokenizer
    summary: str


def wants_hyper(arguments: FinetuneArguments) -> bool:
    """Whether hypernetwork adapters are asked for. Raises UserError: options that then have no
    effect, or that say two things."""
    hyper, usual = arguments.hyper, HyperArguments()
    if not hyper.templates and hyper.source is None:
        if hyper != usual:
            raise UserError(
                "--hyper's options have no effect without templates: give --hyper.templates, such "
                "as 8, or --hyper.source FOLDER"
            )
        return False
    if (
        hyper.source is not None
        and dataclasses.replace(hyper, source=None, code_rate=None) != usual
    ):
        raise UserError(
            "--hyper.source has templates already: leave --hyper.templates, --hyper.rank, "
            "--hyper.alpha and --hyper.layers out"
        )
    return True


def prepare_hyper(arguments: FinetuneArguments) -> PreparedHyper:
    """Read everything but the tensors.

    Raises:
      UserError: an argument, the checkpoint, the data, or how they go together.
    """
    _refuse_others(arguments)
    given = arguments.hyper
    run_dir = arguments.run_dir or Path("runs") / f"{short_title(arguments.checkpoint)}-hyper"
    base = read_base(
        arguments.checkpoint,
        full=False,
        tokenizer=arguments.tokenizer,
        config=arguments.config,
        dtype=arguments.dtype,
        remat="none" if arguments.remat == "auto" else arguments.remat,
    )
    if given.source is not None:
        kept = hyper_adapters.read(given.source)
        kept.check(base.config)
        hyper, source = kept.hyper, str(given.source.resolve())
    else:
        alpha = 2.0 * given.rank if given.alpha is None else given.alpha
        hyper = HyperConfig(
            templates=given.templates, rank=given.rank, alpha=alpha, layers=given.layers
        )
        source = ""
    hyper_layers(base.config, hyper)
    tasks = _tasks(arguments)
    if source and len(tasks) > 1:
        raise UserError(
            f"{len(tasks)} files with --hyper.source, which learns one code: give one file, or "
            "start once for each"
        )
    write_chats_by(
        base.tokenizer, arguments.chat_template if arguments.chat_template != PLAIN else "auto"
    )
    rows = max(arguments.batch_size // len(tasks), 1)
    tokens = [read_examples([spec], base.tokenizer).tokens for spec in tasks.values()]
    if not 0 < arguments.epochs < math.inf:
        raise UserError(f"epochs={arguments.epochs}: expected a number above 0")
    longest = max(tokens)
    steps = math.ceil(arguments.epochs * longest / (rows * arguments.sequence_length))
    rate = RATE if arguments.learning_rate is None else arguments.learning_rate
    code_rate = given.code_rate
    if code_rate is None:
        code_rate = ALONE if source else CODE_RATE * rate
    warmup = max(round(WARMUP * steps), 1)
    config = HyperRun(
        model=base.config,
        init_from=base.init_from,
        tasks=tasks,
        hyper=hyper,
        source=source,
        steps=steps,
        rows=rows,
        sequence_length=arguments.sequence_length,
        learning_rate=rate,
        code_rate=code_rate,
        warmup_steps=warmup if arguments.warmup_steps is None else arguments.warmup_steps,
        seed=arguments.seed,
        **every(arguments, log_every=10, save_every=200),
        keep=arguments.keep,
    )
    what = "a code" if source else f"{hyper.templates} templates of rank {hyper.rank}, and codes"
    summary = (
        f"{what} of {len(tasks)} task{'s' if len(tasks) > 1 else ''} ({', '.join(tasks)}), "
        f"{sum(tokens):,} tokens; {steps:,} steps of {len(tasks)} x {rows} rows of "
        f"{arguments.sequence_length:,} tokens; {run_dir}"
    )
    return PreparedHyper(config, run_dir, base.tokenizer, summary)


def _tasks(arguments: FinetuneArguments) -> dict[str, str]:
    """Name of a task, that of its file without the ending, -> its source."""
    if not arguments.data:
        raise UserError("nothing to learn from: name a file of conversations for each task (DATA)")
    specs = chat_specs(
        arguments.data,
        messages=arguments.messages,
        prompt=arguments.prompt,
        response=arguments.response,
        answers=arguments.answers,
        plain=arguments.chat_template == PLAIN,
    )
    names = [Path(name.removeprefix("chat:").partition("?")[0]).stem for name in arguments.data]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"two files are called {name!r}, and a task has the name of its file: rename one"
            )
    return dict(zip(names, specs, strict=True))


def _refuse_others(arguments: FinetuneArguments) -> None:
    """Raises UserError: options that have no effect here."""
    arguments.policy.given()
    arguments.preference.given(arguments.policy.method)
    if arguments.policy.method != "examples":
        raise UserError(
            f"--hyper learns from examples, and --method is {arguments.policy.method}: leave one "
            "of them out"
        )
    for name in given_of(arguments, NO_EFFECT):
        raise UserError(f"--{name.replace('_', '-')} has no effect with --hyper; leave it out")
    launch = arguments.launch
    if launch.mesh != MeshConfig() or launch.devices > 1:
        raise UserError("--hyper runs on one device: leave --mesh.* and --devices out")
