# SPDX-License-Identifier: Apache-2.0
"""From the arguments of `griffin finetune --method dpo` (or `kto`) to a TrainConfig and all else
that a run needs."""

import dataclasses
import math
from pathlib import Path

from checkpoints.hub_names import short_title
from recurrentgemma import sharding
from recurrentgemma.errors import UserError
from training import pins
from training.configs import TrainConfig
from training.data.config import DataConfig, write_chats_by
from training.data.sources.chat_lines import PLAIN
from training.finetuning.finetune import WARMUP, memory
from training.finetuning.finetune_arguments import FinetuneArguments, every
from training.finetuning.preference_config import PreferenceConfig
from training.finetuning.preferences import PreferenceReader
from training.finetuning.prepare import PreparedRun, chosen_base, chosen_lora, files_of
from training.optim import OptimConfig

RATES = {"full": 1e-6, "lora": 1e-5}  # learning rates where none is given
OF_EXAMPLES = ("answers", "messages", "prompt", "response")


def prepare_preferences(arguments: FinetuneArguments) -> PreparedRun:
    """Read everything but the tensors.

    Raises:
      UserError: an argument, the checkpoint, the preferences, or how they go together.
    """
    method = arguments.policy.method
    assert method in ("dpo", "kto")
    arguments.policy.given()  # options of rewards, which have no effect here
    defaults = {field.name: field.default for field in dataclasses.fields(FinetuneArguments)}
    for name in OF_EXAMPLES:
        if getattr(arguments, name) != defaults[name]:
            raise UserError(
                f"--{name} has no effect with --method {method}, whose lines have a prompt, chosen "
                "and rejected; leave it out"
            )
    if not arguments.data:
        raise UserError("nothing to learn from: name at least one file of preferences (DATA)")
    if not 0 < arguments.epochs < math.inf:
        raise UserError(f"epochs={arguments.epochs}: expected a number above 0")
    lora = chosen_lora(arguments)
    kind = "full" if lora is None else "lora"
    plain = arguments.chat_template == PLAIN
    preference = PreferenceConfig(
        method=method,
        pairs=files_of(arguments.data),
        held_out=files_of(arguments.eval_data),
        plain=plain,
        **arguments.preference.given(method),
    )
    run_dir = arguments.run_dir or Path("runs") / f"{short_title(arguments.checkpoint)}-{method}"
    base = chosen_base(arguments, run_dir, lora)
    template = "auto" if plain else arguments.chat_template
    mesh = arguments.launch.make_mesh()
    if mesh is not None:
        sharding.check_model(base.config, mesh.shape)
        sharding.check_batch(arguments.batch_size, arguments.sequence_length, mesh.shape)
    write_chats_by(base.tokenizer, template)
    reader = PreferenceReader(preference, base.tokenizer, most=arguments.sequence_length)
    examples = reader.read(preference.pairs)
    reader.read(preference.held_out)
    steps = math.ceil(max(round(arguments.epochs * len(examples)), 1) / arguments.batch_size)
    rate, warmup = arguments.learning_rate, arguments.warmup_steps
    config = TrainConfig(
        model=base.config,
        optimizer=OptimConfig(
            learning_rate=RATES[kind] if rate is None else rate,
            warmup_steps=min(round(WARMUP * steps) or 1, steps - 1) if warmup is None else warmup,
            weight_decay=arguments.weight_decay,
            beta2=0.999,
        ),
        prune=arguments.prune,
        retain=arguments.retain,
        data=DataConfig(chat_template=template, epochs=arguments.epochs),
        tokenizer=base.tokenizer_from,
        init_from=pins.at_step(base.init_from),
        branches=pins.branches((arguments.checkpoint, arguments.tokenizer), run_dir),
        lora=lora,
        preference=preference,
        steps=steps,
        batch_size=2 * arguments.batch_size,
        sequence_length=arguments.sequence_length,
        seed=arguments.seed,
        **every(arguments, log_every=10, eval_every=200, save_every=200),
        keep=arguments.keep,
    )
    needed = memory(base.config, lora)
    kept = 0 if lora else needed["trained"] * 4  # the starting model's, as the reference
    longest = max(examples, key=lambda example: example.length)
    summary = (
        f"{len(examples):,} preferences; the longest, {longest.name}, has {longest.length:,} "
        f"tokens\n"
        f"{steps:,} step{'s' if steps > 1 else ''} of {arguments.batch_size} of them; "
        f"{needed['trained']:,} parameters to train, {(needed['bytes'] + kept) / 2**30:.2f} GiB "
        f"besides activations; {run_dir}"
    )
    return PreparedRun(config, run_dir, summary)
