# SPDX-License-Identifier: Apache-2.0
"""PolicyConfig: how a model learns from the rewards of its own answers.

An iteration is a rollout (`rollout` answers to prompts, drawn by the model as it is) and `epochs`
passes over it in minibatches of TrainConfig.batch_size answers. TrainConfig.steps counts
iterations, and TrainConfig.sequence_length is the most that a prompt and its answer may take.
"""

import dataclasses
import math
import os
from typing import Literal

from recurrentgemma.errors import UserError
from recurrentgemma.sharding import nearest_divisor

Method = Literal["ppo", "grpo"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Raises UserError: a field is out of range, or two contradict each other."""

    method: Method
    prompts: tuple[str, ...]
    """Files of JSON lines or Parquet, or globs of such."""
    held_out: tuple[str, ...] = ()
    """The same, to be answered and rewarded without learning from it."""
    reward: str = ""
    """FILE.py:FUNCTION; nothing: 1 for the exact answer of the line, else 0."""
    prompt_field: str = "prompt"
    answer_field: str = "answer"
    plain: bool = False
    """Prompts are plain text, without a chat template."""
    rollout: int = 64
    """Answers of an iteration."""
    group_size: int = 1
    """Answers to each prompt of a rollout (GRPO)."""
    epochs: int = 4
    """Passes over each rollout."""
    max_new_tokens: int = 64
    """Of an answer, with the token that ends it."""
    clip: float = 0.2
    """The ratio of probabilities is clipped to 1 - clip and 1 + clip."""
    kl: float = 0.04
    """Weight of the KL divergence from the starting model."""
    entropy: float = 0.0
    """Weight of the entropy, which is rewarded."""
    pfo: float = 0.0
    """Weight of PFO, which holds the final features still."""
    advantages: Literal["standardised", "centred"] = "standardised"
    """Whether advantages less their mean are divided by their standard deviation: of a minibatch's
    tokens (PPO), or of a group's rewards (GRPO)."""
    loss_mean: Literal["answer", "token"] = "answer"
    """The mean over answers of the mean over each one's tokens, or over all tokens at once."""
    value_coefficient: float = 0.1
    """Weight of the value head's loss (PPO)."""
    trace: float = 0.95
    """Lambda of generalised advantage estimation (PPO)."""

    def __post_init__(self) -> None:
        for name in ("rollout", "group_size", "epochs", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: expected at least 1")
        for name in ("kl", "entropy", "pfo", "value_coefficient"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name}={getattr(self, name)}: expected 0 or a number above")
        if not 0 < self.clip < 1:
            raise UserError(f"clip={self.clip}: expected a number between 0 and 1, such as 0.2")
        if not 0 <= self.trace <= 1:
            raise UserError(f"trace={self.trace}: expected a number from 0 to 1")
        if not self.prompts:
            raise UserError("no prompts: name at least one file of prompts (DATA)")
        if self.method == "grpo" and self.group_size < 2:
            raise UserError(
                f"group_size={self.group_size}: expected at least 2, for GRPO compares the answers "
                "to one prompt with each other"
            )
        if self.rollout % self.group_size:
            raise UserError(
                f"group_size={self.group_size} does not divide rollout={self.rollout}; choose "
                f"{nearest_divisor(self.rollout, self.group_size)}, which does"
            )

    def check_minibatch(self, batch_size: int) -> None:
        """Raises UserError: minibatches of so many answers do not make up a rollout."""
        if self.rollout % batch_size:
            raise UserError(
                f"batch_size={batch_size}, the answers of a minibatch, does not divide "
                f"rollout={self.rollout}; choose {nearest_divisor(self.rollout, batch_size)}, "
                "which does"
            )

    def updates(self, batch_size: int) -> int:
        """Steps of the optimizer in an iteration."""
        return self.epochs * (self.rollout // batch_size)

    def with_absolute_paths(self) -> "PolicyConfig":
        """The same config, whose files are the same from every working directory."""
        reward = self.reward
        if reward:
            path, colon, function = reward.rpartition(":")
            reward = f"{os.path.abspath(path)}{colon}{function}"
        return dataclasses.replace(
            self,
            prompts=tuple(map(os.path.abspath, self.prompts)),
            held_out=tuple(map(os.path.abspath, self.held_out)),
            reward=reward,
        )
