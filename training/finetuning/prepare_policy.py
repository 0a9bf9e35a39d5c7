# SPDX-License-Identifier: Apache-2.0
"""From the arguments of `griffin finetune --method ppo` (or `grpo`) to a TrainConfig and all else
that a run needs."""

from pathlib import Path

from checkpoints.hub_names import short_title
from recurrentgemma.errors import UserError
from training import pins
from training.configs import TrainConfig
from training.data.config import DataConfig, write_chats_by
from training.data.sources.chat_lines import PLAIN
from training.finetuning.finetune import WARMUP, memory
from training.finetuning.finetune_arguments import FinetuneArguments, every, given_of
from training.finetuning.policy_config import PolicyConfig
from training.finetuning.prepare import PreparedRun, chosen_base, chosen_lora, files_of
from training.finetuning.questions import QuestionReader
from training.finetuning.reward import load_reward
from training.optim import OptimConfig

RATES = {"full": 1e-6, "lora": 1e-5}  # learning rates where none is given
OF_EXAMPLES = ("answers", "messages", "epochs", "prune", "retain")
INSTEAD = {"epochs": ": --iterations and --update-epochs say how long it learns"}


def prepare_policy(arguments: FinetuneArguments) -> PreparedRun:
    """Read everything but the tensors.

    Raises:
      UserError: an argument, the checkpoint, the prompts, the reward, or how they go together.
    """
    method = arguments.policy.method
    assert method in ("ppo", "grpo")
    given = arguments.policy.given()
    arguments.preference.given(method)
    for name in given_of(arguments, OF_EXAMPLES):
        raise UserError(
            f"--{name} has no effect with --method {method}{INSTEAD.get(name, '')}; leave it out"
        )
    lora = chosen_lora(arguments)
    kind = "full" if lora is None else "lora"
    iterations = given.pop("iterations", 100)
    policy = PolicyConfig(
        method=method,
        prompts=files_of(arguments.data),
        held_out=files_of(arguments.eval_data),
        reward=given.pop("reward", ""),
        prompt_field=arguments.prompt or "prompt",
        answer_field=arguments.response or "answer",
        plain=arguments.chat_template == PLAIN,
        epochs=given.pop("update_epochs", 4),
        group_size=given.pop("group_size", 8 if method == "grpo" else 1),
        **given,
    )
    if policy.reward and arguments.response:
        raise UserError(
            "--response names the field of exact answers, and --reward asks a function: leave one "
            "of them out"
        )
    run_dir = arguments.run_dir or Path("runs") / f"{short_title(arguments.checkpoint)}-{method}"
    base = chosen_base(arguments, run_dir, lora)
    template = "auto" if policy.plain else arguments.chat_template
    rate, warmup = arguments.learning_rate, arguments.warmup_steps
    config = TrainConfig(
        model=base.config,
        optimizer=OptimConfig(
            learning_rate=RATES[kind] if rate is None else rate,
            warmup_steps=min(round(WARMUP * iterations) or 1, iterations - 1)
            if warmup is None
            else warmup,
            final_fraction=1.0,  # constant
            weight_decay=arguments.weight_decay,
            beta2=0.999,
        ),
        data=DataConfig(chat_template=template),
        tokenizer=base.tokenizer_from,
        init_from=pins.at_step(base.init_from),
        branches=pins.branches((arguments.checkpoint, arguments.tokenizer), run_dir),
        lora=lora,
        policy=policy,
        steps=iterations,
        batch_size=arguments.batch_size,
        sequence_length=arguments.sequence_length,
        seed=arguments.seed,
        **every(arguments, log_every=1, eval_every=20, save_every=20),
        keep=arguments.keep,
    )
    write_chats_by(base.tokenizer, template)
    most = arguments.sequence_length - policy.max_new_tokens
    reader = QuestionReader(policy, base.tokenizer, most=most)
    questions = reader.read(policy.prompts)
    reader.read(policy.held_out)
    if policy.reward:
        load_reward(policy.reward)
    needed = memory(base.config, lora)
    kept = needed["trained"] * 4  # the starting model's, as the reference
    longest = max(questions, key=lambda question: len(question.ids))
    summary = (
        f"{len(questions):,} prompts; the longest, {longest.name}, has {len(longest.ids):,} "
        f"tokens\n"
        f"{iterations:,} iterations of {policy.rollout:,} answers, {policy.epochs} epochs of "
        f"{policy.rollout // arguments.batch_size:,} minibatches on each; "
        f"{needed['trained']:,} parameters to train, {(needed['bytes'] + kept) / 2**30:.2f} GiB "
        f"besides activations; {run_dir}"
    )
    return PreparedRun(config, run_dir, summary)
