# SPDX-License-Identifier: Apache-2.0
"""From the arguments of a fine-tuning to its config: what follows from them, what is refused."""

import dataclasses
from pathlib import Path

import pytest
from flax import nnx

from checkpoints import store
from recurrentgemma.griffin import Griffin
from recurrentgemma.params import flat_params
from tests.training.finetuning.capitals import QUESTIONS, arguments, run
from training.configs import TrainConfig
from training.finetuning.finetune_arguments import FinetuneArguments, LoraArguments
from training.finetuning.lora import LoraConfig
from training.finetuning.prepare import prepare


def test_defaults(base: Path, data: Path, tmp_path: Path):
    asked = FinetuneArguments(checkpoint=str(base), data=(str(data),), sequence_length=64)
    full = prepare(dataclasses.replace(asked, epochs=1000.0))
    assert full.config.optimizer.learning_rate == 1e-5
    assert full.config.optimizer.weight_decay == 0.0
    assert full.config.optimizer.warmup_steps == round(0.03 * full.config.steps)
    assert full.run_dir == Path("runs/hf-tuned")
    assert full.config.data.long_documents == "carry"
    assert full.config.model.dtype == "bfloat16"
    low = prepare(dataclasses.replace(asked, lora=LoraArguments(rank=4)))
    assert low.config.optimizer.learning_rate == 2e-4
    assert low.config.lora == LoraConfig(rank=4, alpha=8.0)
    assert low.config.steps == 1
    assert "besides activations" in low.summary


def test_errors(base: Path, data: Path, tmp_path: Path, small: TrainConfig):
    good = arguments(base, data, tmp_path / "run")

    def error(message: str, **changes: object) -> None:
        with pytest.raises(ValueError, match=message):
            prepare(dataclasses.replace(good, **changes))

    error("no such file or directory", checkpoint=str(tmp_path / "absent"))
    error("no file matches", data=(str(tmp_path / "absent.jsonl"),))
    error("no file matches", eval_data=(str(tmp_path / "absent.jsonl"),))
    (tmp_path / "half.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a"}\n')
    error(r"half\.jsonl:2 .*'response'", eval_data=(str(tmp_path / "half.jsonl"),))
    error("nothing to learn from: name at least one file", data=())
    error("fine-tuning reads prompts with responses", data=(f"text:{data}",))
    error("has neither 'q' nor 'messages'", prompt="q")
    error("epochs=0.0: expected a number above 0", epochs=0.0)
    error("--lora.alpha has no effect without adapters", lora=LoraArguments(alpha=3.0))
    error("--lora.layers has no effect without adapters", lora=LoraArguments(layers=".*_up"))
    error("lora.rank=-1: expected at least 1", lora=LoraArguments(rank=-1))
    error("is the name of no linear layer", lora=LoraArguments(rank=2, layers="head"))
    error("weight_decay=0.1 has no effect by LoRA", lora=LoraArguments(rank=2), weight_decay=0.1)
    error("a batch of 6 rows does not divide", batch_size=6)
    error("warmup_steps=9000 leaves nothing of steps", warmup_steps=9000)
    error("has options of its own", data=(f"chat:{data}?prompt=a",), response="b")
    bare = tmp_path / "bare"
    store.write(bare, dict(flat_params(Griffin(small.model, rngs=nnx.Rngs(0)))), small.model)
    error("no tokenizer lies beside this checkpoint.*--tokenizer", checkpoint=str(bare))
    assert prepare(
        dataclasses.replace(good, checkpoint=str(bare), tokenizer=str(base))
    ).config.init_from == str(bare)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("")
    with pytest.raises(ValueError, match="exists and is not a run"):
        run(prepare(dataclasses.replace(good, run_dir=tmp_path / "other")))


def test_epochs_are_passes_but_for_a_run_that_counted_tokens(
    base: Path, data: Path, tmp_path: Path
):
    """Of four passes over two examples each of the 8 rows has one, longer than 32 tokens."""
    asked = arguments(base, data, tmp_path / "run", epochs=4.0)
    prepared = prepare(asked)
    assert prepared.config.data.epochs == 4.0
    assert prepared.config.steps == 2
    assert f"the longest, {data}:" in prepared.summary
    saved = prepared.config.to_json()
    del saved["data"]["epochs"]  # as it was written before there was such an option
    store.write_run_config(tmp_path / "run", prepared.config.model, saved)
    older = prepare(dataclasses.replace(asked, epochs=200.0)).config
    assert older.data.epochs == 0
    pairs = sum(len(f"user\n{q}\nmodel\n{a}") + 4 for q, a in QUESTIONS.items())
    assert older.steps == -(-200 * pairs // (8 * 32))  # epochs times tokens, as it was
    store.write_run_config(tmp_path / "run", prepared.config.model, prepared.config.to_json())
    assert prepare(asked).config == prepared.config
    with pytest.raises(ValueError, match=r"epochs=0\.0: expected a number above 0"):
        prepare(dataclasses.replace(asked, epochs=0.0))
