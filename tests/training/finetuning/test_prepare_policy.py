# SPDX-License-Identifier: Apache-2.0
"""From the arguments of learning from rewards to a config: what follows, and what is refused."""

import dataclasses
from pathlib import Path

import pytest

from recurrentgemma.errors import UserError
from tests.training.finetuning.capitals import arguments
from tests.training.finetuning.small_policy import write_prompts, write_reward
from training.finetuning.finetune_arguments import FinetuneArguments, LoraArguments
from training.finetuning.policy_arguments import PolicyArguments
from training.finetuning.prepare import prepare
from training.finetuning.prepare_policy import prepare_policy
from training.loop import train


@pytest.fixture
def good(base: Path, tmp_path: Path) -> FinetuneArguments:
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    return arguments(
        base, prompts, tmp_path / "run", policy=PolicyArguments(method="grpo"),
        epochs=3.0, sequence_length=128, learning_rate=None,
    )  # fmt: skip


def test_defaults(good: FinetuneArguments, tmp_path: Path):
    prepared = prepare_policy(good)
    config = prepared.config
    assert config.policy is not None
    assert (config.policy.group_size, config.policy.kl, config.policy.epochs) == (8, 0.04, 4)
    assert (config.steps, config.log_every, config.save_every) == (100, 1, 20)
    assert config.optimizer.learning_rate == 1e-6
    assert config.optimizer.warmup_steps == 3  # iterations
    assert config.model.param_dtype == "float32"
    assert "6 prompts; the longest, " in prepared.summary
    assert "100 iterations of 64 answers, 4 epochs of 8 minibatches on each" in prepared.summary
    with pytest.raises(UserError, match=r"`griffin finetune --method grpo` that began it"):
        train(config, prepared.run_dir)
    changed = dataclasses.replace(
        good,
        policy=PolicyArguments(method="ppo", rollout=16, update_epochs=2, iterations=7, pfo=1.0),
        lora=LoraArguments(rank=2),
        chat_template="none",
        run_dir=None,
    )
    prepared = prepare_policy(changed)
    policy = prepared.config.policy
    assert policy is not None
    assert (policy.rollout, policy.epochs, policy.pfo, policy.plain) == (16, 2, 1.0, True)
    assert prepared.config.optimizer.learning_rate == 1e-5
    assert prepared.run_dir == Path("runs/hf-ppo")


def test_errors(good: FinetuneArguments, tmp_path: Path):
    def error(message: str, policy: PolicyArguments | None = None, **changes: object) -> None:
        given = {"policy": policy or good.policy, **changes}
        with pytest.raises(UserError, match=message):
            prepare_policy(dataclasses.replace(good, **given))

    error("no prompts: name at least one file", data=())
    error("no file matches", data=(str(tmp_path / "absent.jsonl"),))
    error("no file matches", eval_data=(str(tmp_path / "absent.jsonl"),))
    error("--answers has no effect with --method grpo; leave it out", answers="last")
    error("--epochs has no effect with --method grpo: --iterations", epochs=2.0)
    error("--trace has no effect", PolicyArguments(method="grpo", trace=0.5))
    error("batch_size=24, the answers of a minibatch, does not divide", batch_size=24)
    error("the prompt has 18 tokens, and with max_new_tokens=64", sequence_length=66)
    error("max_new_tokens=64 leaves nothing of sequence_length=64", sequence_length=64)
    error("there is no file", PolicyArguments(method="grpo", reward="absent.py:f"))
    reward = f"{write_reward(tmp_path)}:reward"
    error("--response names the field of exact answers", PolicyArguments(method="grpo",
          reward=reward), response="a")  # fmt: skip
    error("has no field 'a'", response="a")
    error("weight_decay=0.1 has no effect by LoRA", lora=LoraArguments(rank=2), weight_decay=0.1)
    (tmp_path / "bad.jsonl").write_text(
        '{"prompt": "a", "answer": "b"}\n{"prompt": "a", "answer": ""}\n'
    )
    error(r"bad\.jsonl:2: answer=''", data=(str(tmp_path / "bad.jsonl"),))
    with pytest.raises(UserError, match="--kl has no effect with --method examples"):
        prepare(dataclasses.replace(good, policy=PolicyArguments(kl=0.1)))
