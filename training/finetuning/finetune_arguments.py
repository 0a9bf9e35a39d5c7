# SPDX-License-Identifier: Apache-2.0
"""The arguments of `griffin finetune`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from recurrentgemma.config import Remat
from recurrentgemma.errors import UserError
from recurrentgemma.lora_config import LoraConfig
from recurrentgemma.text.chat import AUTO
from training.finetuning.policy_arguments import PolicyArguments, PreferenceArguments
from training.launch import Launch
from training.pruning.config import PruneConfig
from training.retention.config import RetainConfig


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
class HyperArguments:
    templates: int = 0
    """Train so many low-rank templates beside each layer, and a code for each file of DATA: a task;
    0: none."""
    rank: int = 4
    """Of each template."""
    alpha: float | None = None
    """Templates count alpha / rank / sqrt(templates) times; twice the rank if it is not said."""
    layers: str = ".*"
    """Which linear layers, as for --lora.layers."""
    source: Path | None = None
    """A folder or run with templates, which stay as they are: a code for DATA is learned."""
    code_rate: float | None = None
    """Learning rate of the codes: ten times that of the templates if it is not said, and 0.03 with
    --hyper.source."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneArguments:
    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """What to start from: a run, a checkpoint of any format, or a model's name on a hub."""
    data: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATA...")]
    """Files of JSON lines, or `chat:GLOB`; quote the latter."""
    policy: Annotated[PolicyArguments, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=PolicyArguments
    )
    preference: Annotated[PreferenceArguments, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=PreferenceArguments
    )
    eval_data: tuple[str, ...] = ()
    """The same, to be scored on: their answers; or prompts, answered with the likeliest tokens."""
    run_dir: Path | None = None
    """Where the run is kept; runs/NAME-tuned by default. If it holds a run, that run goes on."""
    lora: LoraArguments = dataclasses.field(default_factory=LoraArguments)
    hyper: HyperArguments = dataclasses.field(default_factory=HyperArguments)
    prune: PruneConfig = dataclasses.field(default_factory=PruneConfig)
    retain: RetainConfig = dataclasses.field(default_factory=RetainConfig)
    chat_template: Annotated[str, tyro.conf.arg(aliases=["--template"])] = AUTO
    """`auto`: the checkpoint's own, else Gemma's format; `gemma`; a file with a Jinja template; or
    `none`: prompt and response as plain text, for tokenizers without turns."""
    answers: Literal["all", "last"] = "all"
    """Which answers of a conversation are learned from."""
    messages: str = ""
    """The field of a line that holds the list of messages; by default its form is recognised."""
    prompt: str = ""
    """The field of a line that is asked; `prompt` if it is not said."""
    response: str = ""
    """The field of a line with what is answered: `response` if it is not said; by rewards the
    exact `answer`."""
    tokenizer: str = ""
    """A tokenizer's file or folder, or a name on a hub; by default the checkpoint's own."""
    epochs: float = 3.0
    """How often the data is gone through."""
    batch_size: int = 8
    """Rows in a batch (B); preferences in one; by rewards, answers in a minibatch."""
    sequence_length: Annotated[int, tyro.conf.arg(aliases=["--row-length"])] = 1024
    """Tokens in a row (T); conversations are packed end to end, and go on in the next batch. By
    preferences or rewards, the most that a prompt and its answer may take."""
    learning_rate: float | None = None
    """1e-5 in full and 2e-4 by LoRA, if it is not said; by preferences or rewards 1e-6 and 1e-5."""
    warmup_steps: int | None = None
    """3% of the steps, if it is not said; by rewards it counts iterations."""
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
    log_every: int | None = None
    """Steps between lines of metrics.jsonl; 10 if it is not said, by rewards 1 iteration."""
    eval_every: int | None = None
    """Steps between evaluations on the beginning of --eval-data; the last step's reads all. 200 if
    it is not said, by rewards 20 iterations."""
    save_every: int | None = None
    """Steps between checkpoints; 200 if it is not said, by rewards 20 iterations."""
    keep: int = 2
    """How many checkpoints are kept, the newest ones."""


def every(arguments: FinetuneArguments, **defaults: int) -> dict[str, Any]:
    """log_every, eval_every and save_every as they were given, or by default."""
    given = {name: getattr(arguments, name) for name in defaults}
    return {name: defaults[name] if value is None else value for name, value in given.items()}


def given_of(arguments: FinetuneArguments, names: Sequence[str]) -> list[str]:
    """Those of these options that are not at their defaults."""
    fields = {field.name: field for field in dataclasses.fields(FinetuneArguments)}

    def default(name: str) -> Any:
        factory = fields[name].default_factory
        return fields[name].default if factory is dataclasses.MISSING else factory()

    return [name for name in names if getattr(arguments, name) != default(name)]


def lora_config(arguments: LoraArguments) -> LoraConfig | None:
    """None for rank 0. Raises UserError: it is below 0, or other options then have no effect."""
    if arguments.rank:
        alpha = 2.0 * arguments.rank if arguments.alpha is None else arguments.alpha
        return LoraConfig(rank=arguments.rank, alpha=alpha, layers=arguments.layers)
    for name in ("alpha", "layers"):
        if getattr(arguments, name) != getattr(LoraArguments, name):
            raise UserError(
                f"--lora.{name} has no effect without adapters: give --lora.rank, such as 16"
            )
    return None
