# SPDX-License-Identifier: Apache-2.0
"""`griffin finetune`: a checkpoint and JSON lines to a Hugging Face folder, in full and LoRA."""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from checkpoints import adapters, store
from checkpoints.convert import convert
from checkpoints.load import load_checkpoint
from griffin_lm import main as griffin
from recurrentgemma.adapters import attach
from recurrentgemma.generation.lm import load
from recurrentgemma.griffin import Griffin
from recurrentgemma.params import flat_params
from recurrentgemma.presets import recurrentgemma_2b, recurrentgemma_9b
from tests.checkpoints import run_steps
from tests.recurrentgemma.models import call
from tests.training.finetuning.capitals import QUESTIONS, arguments, run
from training.configs import TrainConfig
from training.data.batches import Batches
from training.finetuning.finetune import chat_specs, memory
from training.finetuning.finetune_arguments import FinetuneArguments, LoraArguments
from training.finetuning.lora import LoraConfig, adapt, split
from training.finetuning.prepare import prepare
from training.run import open_start as start_of


def answers(path: Path) -> dict[str, str]:
    lm = load(path)
    return {
        q: lm.chat([{"role": "user", "content": q}], max_tokens=8, temperature=0.0)
        for q in QUESTIONS
    }


def test_full(base: Path, data: Path, tmp_path: Path, capsys):
    (tmp_path / "held_out.jsonl").write_bytes(data.read_bytes())
    changes = {"eval_data": (str(tmp_path / "held_out.jsonl"),), "save_every": 40}
    prepared = prepare(arguments(base, data, tmp_path / "run", **changes))
    assert prepared.config.model.param_dtype == "float32"
    assert run(prepared) < 0.05
    assert answers(tmp_path / "run") == QUESTIONS
    output = capsys.readouterr().out
    bits = float(output.rsplit("held-out text: ", 1)[1].split()[0])
    assert 0 < bits < 0.2
    run(prepared)  # it is trained: nothing is left to do
    assert "is trained" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"another config .*learning_rate: 0\.01 -> 0\.02"):
        run(prepare(arguments(base, data, tmp_path / "run", learning_rate=2e-2, **changes)))


def low_rank(base: Path, data: Path, run_dir: Path) -> FinetuneArguments:
    lora = LoraArguments(rank=8)
    return arguments(base, data, run_dir, lora=lora, learning_rate=3e-2, save_every=15)


@pytest.fixture(scope="module")
def by_lora(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("lora") / "run"
    run(prepare(low_rank(base, data, run_dir)))
    return run_dir


def test_lora_and_its_merged_export(base: Path, by_lora: Path, tmp_path: Path, capsys):
    run_dir = by_lora
    before = flat_params(load_checkpoint(base)[0])
    held = run_steps.restore(run_dir).params
    assert {name.rpartition("_")[0].rpartition("/")[2] for name in held} == {"weight_lora"}

    # As a run, as a Hugging Face folder, by `griffin merge`, and from PEFT's files: one model.
    convert(run_dir, tmp_path / "hf", "huggingface")
    assert griffin(["merge", str(base), str(run_dir / "adapter"), str(tmp_path / "merged")]) == 0
    assert "taken on trust" not in capsys.readouterr().out
    shutil.copytree(base, tmp_path / "another")
    merge = ["merge", str(tmp_path / "another"), str(run_dir / "adapter"), str(tmp_path / "m")]
    assert griffin(merge) == 0
    assert re.search("says that it was trained on .*taken on trust", capsys.readouterr().out)
    opened, _, tokenizer = load_checkpoint(run_dir)
    assert tokenizer is not None
    whole = flat_params(opened)
    for other in (tmp_path / "hf", tmp_path / "merged", run_dir / "adapter"):
        for name, value in flat_params(load_checkpoint(other)[0]).items():
            np.testing.assert_array_equal(value, whole[name], err_msg=f"{other} {name}")
    changed = {name for name in whole if not np.array_equal(whole[name], before[name])}
    assert changed == {name for name in whole if name.endswith("/weight")}
    config_json = json.loads((tmp_path / "hf/config.json").read_text())
    assert config_json["model_type"] == "recurrent_gemma"

    # And it is the model that was trained.
    flat = jax.tree.map(jnp.asarray, adapters.read(run_dir / "adapter").flat())
    trained = attach(load_checkpoint(base)[0], flat, scale=16 / 8)
    tokens = np.arange(24)[None] * 5 % 200
    np.testing.assert_allclose(call(opened, tokens)[0], call(trained, tokens)[0], atol=5e-5)
    assert adapters.read(run_dir / "adapter").base == str(base.resolve())
    assert answers(tmp_path / "hf") == QUESTIONS


def test_adapters_that_were_not_written_are_and_their_base_stays(
    small: TrainConfig, base: Path, data: Path, by_lora: Path, tmp_path: Path
):
    """Killed between the last checkpoint and PEFT's files; and the base, a run, goes on."""
    run_dir = tmp_path / "run"
    shutil.copytree(by_lora, run_dir)
    shutil.rmtree(run_dir / "adapter")
    again = low_rank(base, data, run_dir)
    run(prepare(again))
    assert (run_dir / "adapter/adapter_config.json").read_bytes() == (
        by_lora / "adapter/adapter_config.json"
    ).read_bytes()

    trained, config, tokenizer = load_checkpoint(base)
    assert tokenizer is not None
    params = dict(flat_params(trained))
    store.write_run_config(tmp_path / "base", config, {})
    tokenizer.save(tmp_path / "base")
    run_steps.save(tmp_path / "base", 3, params)
    prepared = prepare(low_rank(tmp_path / "base", data, tmp_path / "other"))
    assert prepared.config.init_from == str(tmp_path / "base/checkpoints/3")
    run_steps.save(tmp_path / "base", 4, params)
    checkpoint, _ = start_of(prepared.config)
    assert checkpoint.path.name == "3"


def test_stopped_in_a_conversation_it_goes_on_bit_for_bit(
    base: Path, data: Path, by_lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Both conversations are longer than a row, so every batch goes on from the one before."""
    prepared = prepare(low_rank(base, data, tmp_path / "run"))
    give, given = Batches.__next__, []

    def stop(self: Batches):
        given.append(0)
        if len(given) == 18:
            raise KeyboardInterrupt
        return give(self)

    monkeypatch.setattr(Batches, "__next__", stop)
    with pytest.raises(KeyboardInterrupt):
        run(prepared)
    assert store.latest_step(tmp_path / "run") == 15
    run(prepared)
    whole = run_steps.restore(by_lora).params
    for name, value in run_steps.restore(tmp_path / "run").params.items():
        np.testing.assert_array_equal(value, whole[name])


def test_specs(data: Path):
    assert chat_specs((str(data),)) == (f"chat:{data}",)
    assert chat_specs((str(data), "chat:*.jsonl"), prompt="q", plain=True) == (
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
    counted = memory(stored, lora)
    assert counted["parameters"] == size(params, frozen)
    assert counted["gradients"] == size(params)
    assert counted["bytes"] == size(frozen) + 4 * size(params)
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
