# SPDX-License-Identifier: Apache-2.0
"""The arguments of `griffin finetune`: what follows from them, what they cost, what is refused."""

import dataclasses
import math
from pathlib import Path

import jax
import pytest
from flax import nnx

from checkpoints import store
from checkpoints.load import load_checkpoint
from griffin_lm import main as griffin
from recurrentgemma.griffin import Griffin
from recurrentgemma.params import flat_params
from recurrentgemma.presets import recurrentgemma_2b, recurrentgemma_9b
from tests.training.finetuning.test_finetune import arguments, run, write_base, write_data
from training.configs import TrainConfig
from training.finetuning.finetune import chat_specs, memory
from training.finetuning.finetune_arguments import FinetuneArguments, LoraArguments
from training.finetuning.finetune_plan import plan
from training.finetuning.lora import LoraConfig, adapt, split


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, small: TrainConfig) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), small)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "tune.jsonl")


def test_the_command(base: Path, data: Path, tmp_path: Path, capsys):
    """Over eight devices, in bfloat16, with scanned layers that are recomputed."""
    command = ["finetune", str(base), str(data), "--run-dir", str(tmp_path / "run")]
    command += ["--lora.rank", "4", "--epochs", "4", "--sequence-length", "32", "--scan-layers"]
    command += ["--mesh.fsdp", "4", "--mesh.data", "2", "--log-every", "1"]
    assert griffin(command) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "2 examples, 76 tokens, of which 11 (14%) are answers" in said
    assert "2 are longer than a row of 32 tokens, 2 of them before their first answer" in said
    assert "2 steps of 8 x 32 tokens" in said
    assert "8 devices, data=2 x fsdp=4, in 1 processes" in said
    assert load_checkpoint(tmp_path / "run")[1].num_layers == 2


def test_defaults(base: Path, data: Path, tmp_path: Path):
    made = FinetuneArguments(checkpoint=base, data=(str(data),), sequence_length=64)
    full = plan(dataclasses.replace(made, epochs=1000.0))
    assert full.config.optimizer.learning_rate == 1e-5
    assert full.config.optimizer.weight_decay == 0.0
    assert full.config.optimizer.warmup_steps == round(0.03 * full.config.steps)
    assert full.run_dir == Path("runs/hf-tuned")
    assert full.config.data.long_documents == "carry"
    assert full.config.model.dtype == "bfloat16"
    low = plan(dataclasses.replace(made, lora=LoraArguments(rank=4)))
    assert low.config.optimizer.learning_rate == 2e-4
    assert low.config.lora == LoraConfig(rank=4, alpha=8.0)
    assert low.config.steps == 1
    assert "besides activations" in low.summary


def test_errors(base: Path, data: Path, tmp_path: Path, small: TrainConfig):
    good = arguments(base, data, tmp_path / "run")

    def error(message: str, **changes: object) -> None:
        with pytest.raises(ValueError, match=message):
            plan(dataclasses.replace(good, **changes))

    error("no such file or directory", checkpoint=tmp_path / "absent")
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
    error("no tokenizer lies beside this checkpoint.*--tokenizer", checkpoint=bare)
    assert plan(
        dataclasses.replace(good, checkpoint=bare, tokenizer=str(base))
    ).config.init_from == str(bare)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("")
    with pytest.raises(ValueError, match="exists and is not a run"):
        run(plan(dataclasses.replace(good, run_dir=tmp_path / "other")))


def test_specs(data: Path):
    assert chat_specs((str(data),)) == (f"chat:{data}",)
    assert chat_specs((str(data), "chat:*.jsonl"), prompt="q", template="none") == (
        f"chat:{data}?prompt=q&template=none",
        "chat:*.jsonl?prompt=q&template=none",
    )
    assert chat_specs((f"chat:{data}?prompt=a",)) == (f"chat:{data}?prompt=a",)


def test_memory_is_what_is_held(small: TrainConfig):
    def size(*trees: object) -> int:
        leaves = jax.tree.leaves(trees)
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)

    lora = LoraConfig(rank=4)
    stored = dataclasses.replace(small.model, param_dtype="bfloat16")
    base = nnx.eval_shape(lambda: Griffin(stored, rngs=nnx.Rngs(0)))
    _, params, frozen = split(adapt(base, lora, seed=0))
    found = memory(stored, lora)
    assert found["parameters"] == size(params, frozen)
    assert found["gradients"] == size(params)
    assert found["bytes"] == size(frozen) + 4 * size(params)
    whole = nnx.eval_shape(lambda: Griffin(small.model, rngs=nnx.Rngs(0)))
    assert memory(small.model, None)["bytes"] == 4 * size(nnx.state(whole))


def test_the_numbers_of_the_documentation():
    """docs/finetuning.md"""
    gib = {}
    for name, preset in (("2b", recurrentgemma_2b()), ("9b", recurrentgemma_9b())):
        stored = dataclasses.replace(preset, param_dtype="bfloat16")
        for lora in (None, LoraConfig(rank=16)):
            gib[name, lora is not None] = round(memory(stored, lora)["bytes"] / 2**30, 1)
    assert gib == {("2b", False): 40.0, ("2b", True): 5.3, ("9b", False): 127.9, ("9b", True): 16.7}
