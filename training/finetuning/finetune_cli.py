# SPDX-License-Identifier: Apache-2.0
"""`griffin finetune`: a checkpoint of any format taught by prompts and responses, by preferences or
by rewards."""

import shlex

import tyro

from training import cluster
from training.finetuning.finetune_arguments import FinetuneArguments, HyperArguments

EXAMPLES = """Fine-tune a checkpoint of any format on prompts and responses, on preferences between
answers (--method dpo or kto), or on rewards of its own answers (--method ppo or grpo), in full or
by LoRA.

A line of DATA is {"prompt": ..., "response": ...}, {"messages": [{"role": ..., "content": ...}]} or
of another form (docs/data.md). Only answers are learned from. Started again, a run goes on where it
stopped.

examples:
  griffin finetune google/recurrentgemma-2b-it tune.jsonl --lora.rank 16 --run-dir runs/mine
  griffin finetune recurrentgemma-2b-it tune.jsonl --epochs 2        every parameter, in float32
  griffin finetune recurrentgemma-2b 'chat:*.jsonl?prompt=q&response=a' --template none
  griffin convert runs/mine mine-hf --to huggingface                 with the adapters merged
  griffin finetune runs/mine one.jsonl two.jsonl --hyper.templates 8 --run-dir runs/shared
  griffin finetune runs/mine three.jsonl --hyper.source runs/shared   a code for it alone
  griffin finetune runs/mine pairs.jsonl --method dpo                {"prompt", "chosen", ...}
  griffin finetune runs/mine sums.jsonl --method grpo                {"prompt": ..., "answer": ...}
  griffin finetune runs/mine prompts.jsonl --method ppo --reward rewards.py:reward --pfo 1
"""


def main(argv: list[str]) -> int:
    """Fine-tune; returns the exit status. Raises UserError or OSError for what a user
    got wrong."""
    arguments = tyro.cli(
        FinetuneArguments, prog="griffin finetune", description=EXAMPLES, args=argv
    )
    cluster.start(arguments.launch.cluster)
    method = arguments.policy.method  # imported here: these take seconds
    if arguments.hyper != HyperArguments():
        from training.finetuning.prepare_hyper import wants_hyper

        if wants_hyper(arguments):
            return _main_hyper(arguments)
    if method == "examples":
        from training.finetuning.prepare import prepare
        from training.loop import train
    elif method in ("dpo", "kto"):
        from training.finetuning.prepare_preferences import prepare_preferences as prepare
        from training.loop import train
    else:
        from training.finetuning.policy_run import train_policy as train
        from training.finetuning.prepare_policy import prepare_policy as prepare
    prepared = prepare(arguments)
    if cluster.is_first():
        print(prepared.summary)
    if not train(prepared.config, prepared.run_dir, arguments.launch):
        return arguments.launch.stopped_status
    if cluster.is_first():
        chat = " --chat" if arguments.chat_template != "none" else ""
        run_dir = shlex.quote(str(prepared.run_dir))
        print(
            f"{prepared.run_dir} is a checkpoint like any other: griffin generate "
            f"{run_dir} PROMPT{chat}; "
            f"griffin convert {run_dir} DST --to huggingface"
        )
    return 0


def _main_hyper(arguments: FinetuneArguments) -> int:
    from training.finetuning.hyper_run import train_hyper
    from training.finetuning.prepare_hyper import prepare_hyper

    prepared = prepare_hyper(arguments)
    print(prepared.summary)
    if not train_hyper(prepared.config, prepared.run_dir, prepared.tokenizer):
        return arguments.launch.stopped_status
    run_dir, tasks = shlex.quote(str(prepared.run_dir)), list(prepared.config.tasks)
    if len(tasks) == 1:
        print(
            f"{prepared.run_dir} is a checkpoint like any other: griffin generate {run_dir} PROMPT"
        )
    else:
        print(
            f"{prepared.run_dir} has templates and {len(tasks)} codes: griffin merge "
            f"{shlex.quote(arguments.checkpoint)} {run_dir} OUT --code {shlex.quote(tasks[0])}; "
            f"griffin finetune {shlex.quote(arguments.checkpoint)} DATA --hyper.source {run_dir}"
        )
    return 0
