# SPDX-License-Identifier: Apache-2.0
"""`griffin finetune`: a checkpoint of any format taught by prompts and responses, by preferences or
by rewards."""

import shlex

import tyro

from training import cluster
from training.finetuning.finetune_arguments import FinetuneArguments

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
