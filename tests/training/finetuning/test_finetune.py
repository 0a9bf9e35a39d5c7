# SPDX-License-Identifier: Apache-2.0
"""`griffin finetune`: a checkpoint and JSON lines to a Hugging Face folder, in full and LoRA."""

import dataclasses
import json
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
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from training.configs import TrainConfig
from training.data.batches import Batches
from training.finetuning.finetune_arguments import FinetuneArguments, LoraArguments
from training.finetuning.finetune_plan import plan
from training.launch import Launch
from training.loop import train
from training.observe.metrics import read_metrics
from training.run import open_start as start_of
from training.run_folder import METRICS

QUESTIONS = {"Capital of France?": "Paris", "Capital of Italy?": "Rome"}


def write_base(folder: Path, small: TrainConfig) -> Path:
    """A checkpoint of random parameters in Hugging Face's format, with a tokenizer."""
    config = dataclasses.replace(small.model, logits_soft_cap=30.0, scale_embeddings=True)
    model = Griffin(config, rngs=nnx.Rngs(0))
    store.write(folder / "ours", dict(flat_params(model)), config)
    ByteTokenizer().save(folder / "ours")
    convert(folder / "ours", folder / "hf", "huggingface")
    return folder / "hf"


def write_data(path: Path) -> Path:
    lines = [{"prompt": q, "response": a} for q, a in QUESTIONS.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, small: TrainConfig) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), small)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "tune.jsonl")


def arguments(base: Path, data: Path, run_dir: Path, **changes) -> FinetuneArguments:
    given = {
        "checkpoint": base,
        "data": (str(data),),
        "run_dir": run_dir,
        "batch_size": 8,
        "sequence_length": 32,
        "dtype": "float32",
        "remat": "none",
        "epochs": 200.0,
        "learning_rate": 1e-2,
    }
    return FinetuneArguments(**given | changes)


def run(planned) -> float:
    """On one device, where it compiles soonest; test_lora_mesh.py has the mesh. The last loss."""
    assert train(planned.config, planned.run_dir, Launch(devices=1, tensorboard=False))
    return read_metrics(planned.run_dir / METRICS)[-1]["loss"]


def answers(path: Path) -> dict[str, str]:
    lm = load(path)
    return {
        q: lm.chat([{"role": "user", "content": q}], max_tokens=8, temperature=0.0)
        for q in QUESTIONS
    }


def test_full(base: Path, data: Path, tmp_path: Path, capsys):
    (tmp_path / "held_out.jsonl").write_bytes(data.read_bytes())
    changes = {"eval_data": (str(tmp_path / "held_out.jsonl"),), "save_every": 40}
    planned = plan(arguments(base, data, tmp_path / "run", **changes))
    assert planned.config.model.param_dtype == "float32"
    assert run(planned) < 0.05
    assert answers(tmp_path / "run") == QUESTIONS
    said = capsys.readouterr().out
    bits = float(said.rsplit("held-out text: ", 1)[1].split()[0])
    assert 0 < bits < 0.2
    run(planned)  # it is trained: nothing is left to do
    assert "is trained" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"another config .*learning_rate: 0\.01 -> 0\.02"):
        run(plan(arguments(base, data, tmp_path / "run", learning_rate=2e-2, **changes)))


def test_epochs_are_passes_but_for_a_run_that_counted_tokens(
    base: Path, data: Path, tmp_path: Path
):
    """Of four passes over two examples each of the 8 rows has one, longer than 32 tokens."""
    asked = arguments(base, data, tmp_path / "run", epochs=4.0)
    planned = plan(asked)
    assert planned.config.data.epochs == 4.0
    assert planned.config.steps == 2
    assert f"the longest, {data}:" in planned.summary
    saved = planned.config.to_json()
    del saved["data"]["epochs"]  # as it was written before there was such an option
    store.write_run_config(tmp_path / "run", planned.config.model, saved)
    older = plan(dataclasses.replace(asked, epochs=200.0)).config
    assert older.data.epochs == 0
    pairs = sum(len(f"user\n{q}\nmodel\n{a}") + 4 for q, a in QUESTIONS.items())
    assert older.steps == -(-200 * pairs // (8 * 32))  # epochs times tokens, as it was
    store.write_run_config(tmp_path / "run", planned.config.model, planned.config.to_json())
    assert plan(asked).config == planned.config
    with pytest.raises(ValueError, match=r"epochs=0\.0: expected a number above 0"):
        plan(dataclasses.replace(asked, epochs=0.0))


def low_rank(base: Path, data: Path, run_dir: Path) -> FinetuneArguments:
    lora = LoraArguments(rank=8)
    return arguments(base, data, run_dir, lora=lora, learning_rate=3e-2, save_every=15)


@pytest.fixture(scope="module")
def by_lora(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("lora") / "run"
    run(plan(low_rank(base, data, run_dir)))
    return run_dir


def test_lora_and_its_merged_export(base: Path, by_lora: Path, tmp_path: Path, capsys):
    run_dir = by_lora
    before = flat_params(load_checkpoint(base)[0])
    held = store.restore(run_dir).params
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
    said = json.loads((tmp_path / "hf/config.json").read_text())
    assert said["model_type"] == "recurrent_gemma"

    # And it is the model that was trained.
    flat = jax.tree.map(jnp.asarray, adapters.read(run_dir / "adapter").flat())
    trained = attach(load_checkpoint(base)[0], flat, scale=16 / 8)
    tokens = np.arange(24)[None] * 5 % 200
    np.testing.assert_allclose(opened(tokens)[0], trained(tokens)[0], atol=5e-5)
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
    run(plan(again))
    assert (run_dir / "adapter/adapter_config.json").read_bytes() == (
        by_lora / "adapter/adapter_config.json"
    ).read_bytes()

    trained, config, tokenizer = load_checkpoint(base)
    assert tokenizer is not None
    params = dict(flat_params(trained))
    store.write_run_config(tmp_path / "base", config, {})
    tokenizer.save(tmp_path / "base")
    store.save(tmp_path / "base", 3, params)
    planned = plan(low_rank(tmp_path / "base", data, tmp_path / "other"))
    assert planned.config.init_from == str(tmp_path / "base/checkpoints/3")
    store.save(tmp_path / "base", 4, params)
    source, _ = start_of(planned.config)
    assert source.path.name == "3"


def test_stopped_in_a_conversation_it_goes_on_bit_for_bit(
    base: Path, data: Path, by_lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Both conversations are longer than a row, so every batch goes on from the one before."""
    planned = plan(low_rank(base, data, tmp_path / "run"))
    give, given = Batches.__next__, []

    def stop(self: Batches):
        given.append(0)
        if len(given) == 18:
            raise KeyboardInterrupt
        return give(self)

    monkeypatch.setattr(Batches, "__next__", stop)
    with pytest.raises(KeyboardInterrupt):
        run(planned)
    assert store.latest_step(tmp_path / "run") == 15
    run(planned)
    whole = store.restore(by_lora).params
    for name, value in store.restore(tmp_path / "run").params.items():
        np.testing.assert_array_equal(value, whole[name])
