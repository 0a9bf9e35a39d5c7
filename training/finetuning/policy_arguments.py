# SPDX-License-Identifier: Apache-2.0
"""The arguments of `griffin finetune` that say what is learned from: examples, preferences or
rewards."""

import dataclasses
from typing import Any, Literal

from recurrentgemma.errors import UserError

OF_ONE = {"group_size": "grpo", "value_coefficient": "ppo", "trace": "ppo"}
"""Options that only one of the two methods has."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyArguments:
    """All but `method` have an effect with ppo and grpo alone; None: PolicyConfig's default."""

    method: Literal["examples", "dpo", "kto", "ppo", "grpo"] = "examples"
    """What is learned from: the answers of DATA; which of two was preferred (dpo), or whether one
    is desirable (kto); or rewards of the model's own answers to the prompts of DATA, by PPO with a
    value head or by GRPO."""
    reward: str | None = None
    """FILE.py:FUNCTION, called with the prompt's text, the answer's and the line of DATA; without
    it, 1 for the `answer` of the line and 0 for all else."""
    iterations: int | None = None
    """Rollouts, and updates on them; 100 if it is not said."""
    rollout: int | None = None
    """Answers of a rollout, 64 if it is not said; --batch-size, their minibatches, divides it."""
    group_size: int | None = None
    """Answers to each prompt of a rollout, 8 if it is not said (grpo)."""
    update_epochs: int | None = None
    """Passes over each rollout, 4 if it is not said."""
    max_new_tokens: int | None = None
    """Of an answer, 64 if it is not said."""
    clip: float | None = None
    """Of the ratio of probabilities, 0.2 if it is not said."""
    kl: float | None = None
    """Weight of the KL divergence from the starting model, 0.04 if it is not said; 0: none."""
    entropy: float | None = None
    """Weight of an entropy bonus, 0 if it is not said."""
    pfo: float | None = None
    """Weight of PFO on the final features, which steadies several epochs; 0 if it is not said."""
    advantages: Literal["standardised", "centred"] | None = None
    """Divide advantages by their standard deviation, as is done if it is not said, or not."""
    loss_mean: Literal["answer", "token"] | None = None
    """Each answer counts the same, as is done if it is not said, or each token."""
    value_coefficient: float | None = None
    """Weight of the value head's loss, 0.1 if it is not said (ppo)."""
    trace: float | None = None
    """Lambda of generalised advantage estimation, 0.95 if it is not said (ppo)."""

    def given(self) -> dict[str, Any]:
        """The options that were given, by name, but `method`.

        Raises UserError: one of them has no effect with this method.
        """
        options = {
            field.name: value
            for field in dataclasses.fields(self)
            if field.name != "method" and (value := getattr(self, field.name)) is not None
        }
        for name in options:
            methods = [OF_ONE[name]] if name in OF_ONE else ["ppo", "grpo"]
            if self.method not in methods:
                raise UserError(
                    f"--{name.replace('_', '-')} has no effect with --method {self.method}: it is "
                    f"an option of --method {' and '.join(methods)}"
                )
        return options


OF_METHOD = {
    "label_smoothing": "dpo",
    "desirable_weight": "kto",
    "undesirable_weight": "kto",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceArguments:
    """None: PreferenceConfig's default."""

    beta: float | None = None
    """dpo, kto: how strongly the model is held to the one that it started from; 0.1 if it is not
    said."""
    label_smoothing: float | None = None
    """dpo: the share of pairs that are taken to be the wrong way round; 0 if it is not said."""
    desirable_weight: float | None = None
    """kto: what a desirable answer counts; 1 if it is not said."""
    undesirable_weight: float | None = None
    """kto: what another one counts; 1 if it is not said."""

    def given(self, method: str) -> dict[str, Any]:
        """The options that were given, by name. Raises UserError: one has no effect with this
        method."""
        options = {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        for name in options:
            methods = [OF_METHOD[name]] if name in OF_METHOD else ["dpo", "kto"]
            if method not in methods:
                raise UserError(
                    f"--{name.replace('_', '-')} has no effect with --method {method}: it is an "
                    f"option of --method {' and '.join(methods)}"
                )
        return options
