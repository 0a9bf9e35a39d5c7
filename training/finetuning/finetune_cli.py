# SPDX-License-Identifier: Apache-2.0
"""`griffin finetune`: a checkpoint of any format taught by prompts and responses."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from recurrentgemma.config import Remat
from training import cluster
from training.launch import Launch

EXAMPLES = """Fine-tune a checkpoint of any format on prompts and responses, in full or by LoRA.

A line of DATA is {"prompt": ..., "response": ...} or {"messages": [{"role": ..., "content": ...}]}.
Only responses are learned from. Started again, a run goes on where it stopped.

examples:
  griffin finetune recurrentgemma-2b-it tune.jsonl --lora.rank 16 --run-dir runs/mine
  griffin finetune recurrentgemma-2b-it tune.jsonl --epochs 2        every parameter, in float32
  griffin finetune recurrentgemma-2b 'chat:*.jsonl?prompt=q&response=a' --template none
  griffin convert runs/mine mine-hf --to huggingface                 with the adapters merged
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraArguments:
    rank: int = 0
    """Train adapters of this rank; 0: train every parameter instead."""
    alpha: float | None = None
    """Adapters count alpha / rank times; twice the rank if it is not said."""
    layers: str = ".*"
    """Which linear layers: a regular expression of whole names, such as
    `blocks.2/attention_block/proj_q`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneArguments:
    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """What to start from: a run, or a checkpoint of any format."""
    data: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA...")]
    """Files of JSON lines, or `chat:GLOB`; quote the latter."""
    eval_data: tuple[str, ...] = ()
    """The same, to be scored on: their answers."""
    run_dir: Path | None = None
    """Where the run is kept; runs/NAME-tuned by default. If it holds a run, that run goes on."""
    lora: LoraArguments = dataclasses.field(default_factory=LoraArguments)
    template: Literal["gemma", "none"] = "gemma"
    """Gemma's chat format; or prompt and response as plain text, for tokenizers without turns."""
    prompt: str = ""
    """The field of a line that is asked; `prompt` if it is not said."""
    response: str = ""
    """The field of a line that is answered; `response` if it is not said."""
    tokenizer: str = ""
    """A tokenizer's file or folder; by default the one beside the checkpoint."""
    epochs: float = 3.0
    """How often the data is gone through."""
    batch_size: int = 8
    """Rows in a batch (B)."""
    row_length: int = 1024
    """Tokens in a row (T); conversations are packed end to end, and go on in the next batch."""
    learning_rate: float | None = None
    """1e-5 in full and 2e-4 by LoRA, if it is not said."""
    warmup_steps: int | None = None
    """3% of the steps, if it is not said."""
    weight_decay: float = 0.0
    """Of the weights of linear layers; by LoRA none decay."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of activations."""
    remat: Remat = "auto"
    """What the backward pass recomputes instead of keeping; `auto`: as little as fits."""
    scan_layers: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Compile one group of layers whatever the depth."""
    launch: Annotated[Launch, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Launch)
    config: str | None = None
    """A preset, or one of our config.json files, for a checkpoint that does not say what it is."""
    seed: int = 0
    """Decides the order of the data and the adapters' first values."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    eval_every: int = 200
    """Steps between evaluations on the beginning of --eval-data; the last step's reads all."""
    save_every: int = 200
    """Steps between checkpoints."""
    keep: int = 2
    """How many checkpoints are kept, the newest ones."""


def main(argv: list[str]) -> int:
    """Fine-tune; returns the exit status. Raises ValueError, OSError or ImportError for what a user
    got wrong."""
    arguments = tyro.cli(
        FinetuneArguments, prog="griffin finetune", description=EXAMPLES, args=argv
    )
    from training.finetuning.finetune_plan import plan  # here: both take seconds to import
    from training.loop import train

    cluster.start(arguments.launch.cluster)
    planned = plan(arguments)
    if cluster.is_first():
        print(planned.summary)
    if not train(planned.config, planned.run_dir, arguments.launch):
        return arguments.launch.stopped_status
    if cluster.is_first():
        chat = " --chat" if arguments.template == "gemma" else ""
        print(
            f"{planned.run_dir} is a checkpoint like any other: griffin generate {planned.run_dir} "
            f"PROMPT{chat}; griffin convert {planned.run_dir} DST --to huggingface"
        )
    return 0
