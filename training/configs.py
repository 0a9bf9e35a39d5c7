# SPDX-License-Identifier: Apache-2.0
"""TrainConfig: everything that decides what a run computes."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Annotated, Any

import tyro

from recurrentgemma import config_json
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.lora_config import LoraConfig
from recurrentgemma.sharding import nearest_divisor
from recurrentgemma.text.chat import AUTO, GEMMA
from training.data.config import DataConfig
from training.data.sources.spec import absolute_spec
from training.finetuning.policy_config import PolicyConfig
from training.finetuning.preference_config import PreferenceConfig
from training.optim import OptimConfig
from training.pruning.config import PruneConfig
from training.retention.config import NEED_START, RetainConfig

MAY_CHANGE_ON_RESUMING = (
    "grad_accumulation_steps",
    "skip_limit",
    "log_every",
    "eval_every",
    "eval_tokens",
    "eval_cut",
    "diagnostics_every",
    "save_every",
    "keep",
    "data.threads",
    "data.eval_sources",
    "retain.eval_data",
    *(f"model.{name}" for name in ("a_init", "scan_layers", "remat", "dtype")),
)
"""Fields that decide speed, memory, rounding and records, not what is learned."""
RENAMED = {"row_length": "sequence_length", "accumulate": "grad_accumulation_steps"}
"""Today's names of fields by their old ones, which saved configs and commands may have."""
BEFORE: dict[str, Any] = {}
"""What a saved config that lacks a field did, where today's default is another."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides what a run computes. Two runs with equal configs and text are equal
    bit for bit.

    Raises UserError: a field is out of range, or two contradict each other.
    """

    model: GriffinConfig
    optimizer: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    prune: PruneConfig = dataclasses.field(default_factory=PruneConfig)
    retain: RetainConfig = dataclasses.field(default_factory=RetainConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    text: tuple[str, ...] = ()
    """UTF-8 files to train on, one document each, of which the last tenth is held out; without
    these and data.sources: Shakespeare's plays."""
    tokenizer: str = "bytes"
    """`bytes`, `sentencepiece` (trained on the run's own text, with model.vocab_size pieces), the
    path of a tokenizer, or the name of a model on a hub for its own; nothing: that of the token
    shards, or of init_from."""
    init_from: str = ""
    """A checkpoint in any format, or a model's name on a hub, whose parameters to start from."""
    branches: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """NAME@BRANCH, or @TAG, of those two as they were given; they themselves have its commit."""
    lora: Annotated[LoraConfig | None, tyro.conf.Suppress] = None
    """Train adapters beside those parameters, which stay as they are; see `griffin finetune`."""
    policy: Annotated[PolicyConfig | None, tyro.conf.Suppress] = None
    """Learn from rewards of the model's own answers; see `griffin finetune --method`."""
    preference: Annotated[PreferenceConfig | None, tyro.conf.Suppress] = None
    """Learn from preferences between answers; see `griffin finetune --method`."""
    steps: int = 1000
    batch_size: int = 8
    """Rows in a batch (B)."""
    sequence_length: Annotated[int, tyro.conf.arg(aliases=["--row-length"])] = 512
    """Tokens in a row (T); see data.long_documents."""
    grad_accumulation_steps: Annotated[int, tyro.conf.arg(aliases=["--accumulate"])] = 1
    """Parts in which a batch goes through the model, one after the other: less memory."""
    seed: int = 0
    """Decides the initial parameters and the order of the data."""
    z_loss: float = 0.0
    """Weight of the square of log Z in the loss, which keeps the logits from drifting."""
    skip_limit: int = 10
    """Steps in a row whose loss or gradient is not finite, after which the run ends."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    eval_every: int = 500
    """Steps between evaluations on the beginning of the held-out documents."""
    eval_tokens: int = 4096
    """How much of each held-out document those evaluations read; the last step's reads all."""
    eval_cut: bool = False
    """Cut held-out documents into rows, each read from a fresh state, as training reads them,
    instead of carrying the state through; always so with global attention."""
    diagnostics_every: int = 0
    """Steps between diagnostics of a fixed batch: ranks, units, gates, norms; 0: none."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """How many checkpoints are kept, the newest ones."""

    def __post_init__(self) -> None:
        shape = ("steps", "batch_size", "sequence_length", "grad_accumulation_steps")
        often = ("skip_limit", "log_every", "eval_every", "eval_tokens", "save_every", "keep")
        for name in (*shape, *often):
            if getattr(self, name) < 1:
                raise UserError(
                    f"{name}={getattr(self, name)}: expected a whole number of at least 1"
                )
        if self.diagnostics_every < 0:
            raise UserError(
                f"diagnostics_every={self.diagnostics_every}: expected a number of steps, or 0"
            )
        if self.steps >= 2**31:
            raise UserError(
                f"steps={self.steps}: expected at most {2**31 - 1}, because the optimizer counts "
                "its updates in 32 bits; a larger batch has fewer"
            )
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed={self.seed}: expected 0 to 4294967295 (2^32 - 1)")
        if not 0 <= self.z_loss < math.inf:
            raise UserError(f"z_loss={self.z_loss}: expected 0 or a number above")
        if self.optimizer.warmup_steps >= self.steps:
            raise UserError(
                f"optimizer.warmup_steps={self.optimizer.warmup_steps} leaves nothing of "
                f"steps={self.steps}; set fewer warm-up steps (--optimizer.warmup-steps, of "
                "`griffin finetune` --warmup-steps) or more steps"
            )
        parts = self.grad_accumulation_steps
        if self.batch_size % parts:
            raise UserError(
                f"grad_accumulation_steps={parts} does not divide batch_size={self.batch_size}; "
                f"choose {nearest_divisor(self.batch_size, parts)}, which does"
            )
        if self.text and self.data.sources:
            raise UserError(
                "both text and data.sources say what to train on; give one of them (files of text "
                "are `text:FILE` among the sources)"
            )
        if self.data.eval_sources and not self.data.sources:
            raise UserError("data.eval_sources without data.sources: name what to train on, too")
        if self.lora is not None and not self.init_from:
            raise UserError("lora without init_from: adapters need a checkpoint to be added to")
        if self.lora is not None and self.prune.penalty:
            raise UserError(
                f"prune.penalty={self.prune.penalty} has no effect with lora: the weights of units "
                "stay as they are; train every parameter"
            )
        self._check_retain()
        self._check_preference()
        if self.policy is not None:
            self.policy.check_minibatch(self.batch_size)
            if not self.init_from:
                raise UserError("policy without init_from: rewards need a model that answers")
            if self.policy.max_new_tokens >= self.sequence_length:
                raise UserError(
                    f"max_new_tokens={self.policy.max_new_tokens} leaves nothing of "
                    f"sequence_length={self.sequence_length} for the prompt; lower it, or raise "
                    "the sequence length"
                )
        context_length = self.model.context_length
        if "global_attention" in self.model.block_types and self.sequence_length > context_length:
            raise UserError(
                f"sequence_length={self.sequence_length} is longer than "
                f"model.context_length={context_length}, the most that a global_attention block "
                "holds; choose a shorter sequence or raise it"
            )

    def _check_retain(self) -> None:
        method, parts = self.retain.method, self.grad_accumulation_steps
        if method in NEED_START and not self.init_from:
            raise UserError(
                f"retain.method={method} without init_from: there is no checkpoint to hold to"
            )
        if method != "none" and self.policy is not None:
            raise UserError(
                f"retain.method={method} has no effect where rewards are learned from, whose own "
                "`kl` holds the policy to its reference; leave it out"
            )
        if self.retain.batch_size % parts:
            raise UserError(
                f"grad_accumulation_steps={parts} does not divide retain.batch_size="
                f"{self.retain.batch_size}; choose a multiple of {parts}"
            )

    def _check_preference(self) -> None:
        if self.preference is None:
            return
        if not self.init_from:
            raise UserError("preference without init_from: the checkpoint is the reference, too")
        if self.policy is not None or self.text or self.data.sources:
            raise UserError("preference beside policy, text or data.sources: learn from one")
        if not self.data.epochs:
            raise UserError("preference without data.epochs: say how often they are learned from")
        parts = self.grad_accumulation_steps
        if self.batch_size % (2 * parts):
            raise UserError(
                f"batch_size={self.batch_size} with preferences, which take two rows each, in "
                f"{parts} part{'s' if parts > 1 else ''}: choose a multiple of {2 * parts}"
            )
        if self.diagnostics_every:
            raise UserError(
                f"diagnostics_every={self.diagnostics_every} has no effect with preferences: the "
                "panel reads text; leave it out"
            )
        if self.retain.kickstarts:
            raise UserError(
                "retain.method=kl without retain.data has no effect with preferences, whose beta "
                "holds the model to the checkpoint on the same rows; give retain.data, or leave it "
                "out"
            )

    def with_absolute_paths(self) -> "TrainConfig":
        """The same config, whose files are the same from every working directory."""

        def absolute(path: str) -> str:
            is_word = path in ("", "bytes", "sentencepiece", AUTO, GEMMA)
            return path if is_word or not os.path.exists(path) else os.path.abspath(path)

        data = dataclasses.replace(
            self.data,
            sources=tuple(map(absolute_spec, self.data.sources)),
            chat_template=absolute(self.data.chat_template),
            eval_sources=tuple(map(absolute_spec, self.data.eval_sources)),
        )
        return dataclasses.replace(
            self,
            data=data,
            text=tuple(map(os.path.abspath, self.text)),
            tokenizer=absolute(self.tokenizer),
            init_from=absolute(self.init_from),
            policy=None if self.policy is None else self.policy.with_absolute_paths(),
            preference=None if self.preference is None else self.preference.with_absolute_paths(),
            retain=self.retain.with_absolute_paths(),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, for config.json, where the model's own config stands beside them."""
        fields = config_json.to_json(self)
        del fields["model"]
        return fields

    @staticmethod
    def from_json(model: GriffinConfig, fields: Mapping[str, Any]) -> "TrainConfig":
        """The config that to_json wrote, in this version or an older one.

        Raises UserError: a field is unknown, of another type or out of range.
        """
        values = {**fields, "model": model.to_json()}
        data = values.get("data")
        if isinstance(data, dict) and holds_chats(data) and "chat_template" not in data:
            values["data"] = {**data, "chat_template": GEMMA}  # before there were others
        return config_json.from_json(TrainConfig, values, renamed=RENAMED, before=BEFORE)


def holds_chats(data: Mapping[str, Any]) -> bool:
    """Whether a saved DataConfig has conversations among its sources."""
    specs = [spec for name in ("sources", "eval_sources") for spec in data.get(name, ())]
    return any(isinstance(spec, str) and spec.startswith("chat:") for spec in specs)
