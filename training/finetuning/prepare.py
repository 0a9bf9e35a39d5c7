# SPDX-License-Identifier: Apache-2.0
"""From the arguments of `griffin finetune` to a TrainConfig and all else that a run needs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from checkpoints.hub_names import short_title
from checkpoints.store import CONFIG, read_run_config
from recurrentgemma import sharding
from recurrentgemma.adapters import adapted_layers
from recurrentgemma.errors import UserError
from recurrentgemma.lora_config import LoraConfig
from recurrentgemma.text.chat import AUTO, GEMMA
from training import pins
from training.configs import TrainConfig, holds_chats
from training.data.config import DataConfig, write_chats_by
from training.data.passes import Deal
from training.data.sources.chat_lines import PLAIN
from training.finetuning.finetune import (
    RATES,
    WARMUP,
    Base,
    chat_specs,
    memory,
    read_base,
    read_examples,
)
from training.finetuning.finetune_arguments import FinetuneArguments, every, lora_config
from training.optim import OptimConfig

FEW_STEPS = 20  # fewer are remarked on


class PreparedRun(NamedTuple):
    """A run of fine-tuning before its first step; summary: of data and size, for people."""

    config: TrainConfig
    run_dir: Path
    summary: str


def chosen_lora(arguments: FinetuneArguments) -> LoraConfig | None:
    """The adapters to train, None for the model itself. Raises UserError: they do not decay."""
    lora = lora_config(arguments.lora)
    if lora is not None and arguments.weight_decay:
        raise UserError(
            f"weight_decay={arguments.weight_decay} has no effect by LoRA: adapters do not decay"
        )
    return lora


def chosen_base(arguments: FinetuneArguments, run_dir: Path, lora: LoraConfig | None) -> Base:
    """What is fine-tuned, as the run pinned it. Raises UserError as read_base; no layer of it has
    such adapters."""
    base = read_base(
        pins.pinned(arguments.checkpoint, run_dir, "init_from"),
        full=lora is None,
        tokenizer=pins.pinned(arguments.tokenizer, run_dir, "tokenizer"),
        config=arguments.config,
        dtype=arguments.dtype,
        remat=arguments.remat,
        scan_layers=arguments.scan_layers,
    )
    if lora is not None:
        adapted_layers(base.config, lora)
    return base


def files_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """Of preferences or prompts: without `chat:`, which says what they are anyway."""
    return tuple(name.removeprefix("chat:") for name in names)


def prepare(arguments: FinetuneArguments) -> PreparedRun:
    """Read everything but the tensors.

    Raises:
      UserError: an argument, the checkpoint, the data, or how they go together.
    """
    arguments.policy.given()  # options that have no effect here
    arguments.preference.given(arguments.policy.method)
    if not arguments.data:
        raise UserError("nothing to learn from: name at least one file of conversations (DATA)")
    lora = chosen_lora(arguments)
    method = "full" if lora is None else "lora"
    run_dir = arguments.run_dir or Path("runs") / f"{short_title(arguments.checkpoint)}-tuned"
    base = chosen_base(arguments, run_dir, lora)

    def specs(files: Sequence[str]) -> tuple[str, ...]:
        return chat_specs(
            files,
            messages=arguments.messages,
            prompt=arguments.prompt,
            response=arguments.response,
            answers=arguments.answers,
            plain=arguments.chat_template == PLAIN,
        )

    if not 0 < arguments.epochs < math.inf:
        raise UserError(f"epochs={arguments.epochs}: expected a number above 0")
    data = DataConfig(
        sources=specs(arguments.data),
        eval_sources=specs(arguments.eval_data),
        chat_template=_chat_template(arguments.chat_template, run_dir),
        epochs=0.0 if _counts_tokens(run_dir) else arguments.epochs,
        long_documents="carry",
    )
    mesh = arguments.launch.make_mesh()
    if mesh is not None:
        sharding.check_model(base.config, mesh.shape)
        sharding.check_batch(arguments.batch_size, arguments.sequence_length, mesh.shape)
    write_chats_by(base.tokenizer, data.chat_template)
    examples = read_examples(data.sources, base.tokenizer)
    if data.eval_sources:
        read_examples(data.eval_sources, base.tokenizer)
    shape = arguments.batch_size, arguments.sequence_length
    steps = math.ceil(arguments.epochs * examples.tokens / math.prod(shape))
    if data.epochs:
        deal = Deal(
            examples.lengths,
            epochs=data.epochs,
            batch_size=arguments.batch_size,
            row_length=arguments.sequence_length,
            seed=arguments.seed,
        )
        steps = deal.batches
    warmup = arguments.warmup_steps
    rate = arguments.learning_rate
    config = TrainConfig(
        model=base.config,
        optimizer=OptimConfig(
            learning_rate=RATES[method] if rate is None else rate,
            warmup_steps=min(round(WARMUP * steps) or 1, steps - 1) if warmup is None else warmup,
            weight_decay=arguments.weight_decay,
            beta2=0.999,
        ),
        prune=arguments.prune,
        retain=arguments.retain,
        data=data,
        tokenizer=base.tokenizer_from,
        init_from=base.init_from,
        branches=pins.branches((arguments.checkpoint, arguments.tokenizer), run_dir),
        lora=lora,
        steps=steps,
        batch_size=arguments.batch_size,
        sequence_length=arguments.sequence_length,
        seed=arguments.seed,
        **every(arguments, log_every=10, eval_every=200, save_every=200),
        keep=arguments.keep,
    )
    needed = memory(base.config, lora)
    few = ""
    if steps < FEW_STEPS:
        few = (
            f"\nso few steps change little: a lower --sequence-length (now {shape[1]:,}) or "
            f"--batch-size (now {shape[0]}), or more --epochs, gives more of them"
        )
    summary = (
        f"{examples.describe(arguments.sequence_length)}\n"
        f"{steps:,} step{'s' if steps > 1 else ''} of {shape[0]} x {shape[1]:,} tokens; "
        f"{needed['trained']:,} parameters to train, {needed['bytes'] / 2**30:.2f} GiB "
        f"besides activations; {run_dir}{few}"
    )
    return PreparedRun(config, run_dir, summary)


def _chat_template(given: str, run_dir: Path) -> str:
    """DataConfig.chat_template; a run that began when there was only Gemma's format keeps it."""
    if given in (AUTO, PLAIN) and (run_dir / CONFIG).is_file():
        data = read_run_config(run_dir)[1].get("data", {})
        if holds_chats(data) and "chat_template" not in data:
            return GEMMA
    return AUTO if given == PLAIN else given


def _counts_tokens(run_dir: Path) -> bool:
    """Whether a run is there that began when epochs counted tokens: it goes on as it began."""
    if not (run_dir / CONFIG).is_file():
        return False
    return not read_run_config(run_dir)[1].get("data", {}).get("epochs")
