# SPDX-License-Identifier: Apache-2.0
"""`griffin finetune`: a checkpoint and JSON lines to a Hugging Face folder, in full and LoRA."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from checkpoints import adapters, store
from checkpoints.convert import convert
from checkpoints.load import load_checkpoint
from recurrentgemma.byte_tokenizer import ByteTokenizer
from recurrentgemma.cli import main as griffin
from recurrentgemma.config import GriffinConfig
from recurrentgemma.griffin import Griffin, flat_params
from recurrentgemma.lm import load
from recurrentgemma.presets import recurrentgemma_2b, recurrentgemma_9b
from training import lora as adapting
from training.configs import TrainConfig
from training.data import Batches
from training.finetune import chat_specs, memory
from training.finetune_cli import FinetuneArguments, LoraArguments
from training.finetune_plan import lora_config, plan
from training.finetune_run import start
from training.lora import LoraConfig

QUESTIONS = {"Capital of France?": "Paris", "Capital of Italy?": "Rome"}


@pytest.fixture(scope="module")
def config(request: pytest.FixtureRequest) -> GriffinConfig:
    small: TrainConfig = request.getfixturevalue("small")
    changes = {"num_heads": 2, "head_dim": 16, "num_gate_blocks": 2, "logits_soft_cap": 30.0}
    return dataclasses.replace(small.model, **changes, scale_embeddings=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, config: GriffinConfig) -> Path:
    """A checkpoint of random parameters in Hugging Face's format, with a tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    model = Griffin(config, rngs=nnx.Rngs(0))
    store.write(folder / "ours", dict(flat_params(model)), config)
    ByteTokenizer().save(folder / "ours")
    convert(folder / "ours", folder / "hf", "huggingface")
    return folder / "hf"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tune.jsonl"
    lines = [{"prompt": q, "response": a} for q, a in QUESTIONS.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def arguments(base: Path, data: Path, run_dir: Path, **changes) -> FinetuneArguments:
    given = {
        "checkpoint": base,
        "data": (str(data),),
        "run_dir": run_dir,
        "batch_size": 8,
        "row_length": 32,
        "dtype": "float32",
        "remat": "none",
        "epochs": 200.0,
        "learning_rate": 1e-2,
    }
    return FinetuneArguments(**given | changes)


def run(planned) -> float:
    """On one device, where it compiles soonest; tests/training/test_lora_mesh.py has the mesh."""
    _, run_dir, base, lora, data, _, _ = planned
    return start(planned.config, run_dir, base=base, lora=lora, data=data)


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
    assert "nats per answer token" in said
    bits = float(said.split("held-out answers: ")[1].split()[0])
    assert 0 < bits < 0.2
    run(planned)  # it is trained: nothing is left to do
    assert "nats" not in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"another config .*learning_rate: 0\.01 -> 0\.02"):
        run(plan(arguments(base, data, tmp_path / "run", learning_rate=2e-2, **changes)))


def low_rank(base: Path, data: Path, run_dir: Path) -> FinetuneArguments:
    lora = LoraArguments(rank=8)
    return arguments(base, data, run_dir, lora=lora, learning_rate=3e-2, save_every=15)


@pytest.fixture(scope="module")
def by_lora(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("lora") / "run"
    run(plan(low_rank(base, data, run_dir)))
    return run_dir


def test_lora_and_its_merged_export(base: Path, by_lora: Path, tmp_path: Path):
    run_dir = by_lora
    before = flat_params(load_checkpoint(base)[0])
    held = store.restore(run_dir).params
    assert {name.rpartition("_")[0].rpartition("/")[2] for name in held} == {"weight_lora"}

    # As a run, as a Hugging Face folder, by `griffin merge`, and from PEFT's files: one model.
    convert(run_dir, tmp_path / "hf", "huggingface")
    assert griffin(["merge", str(base), str(run_dir / "adapter"), str(tmp_path / "merged")]) == 0
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
    lora = LoraConfig(rank=8, alpha=16.0)
    trained = adapting.adapt(load_checkpoint(base)[0], lora, seed=5)
    trained = adapting.load(run_dir / "adapter", trained)
    tokens = np.arange(24)[None] * 5 % 200
    np.testing.assert_allclose(opened(tokens)[0], trained(tokens)[0], atol=5e-5)
    assert adapters.read(run_dir / "adapter").base == str(base.resolve())
    assert answers(tmp_path / "hf") == QUESTIONS


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


def test_the_command(base: Path, data: Path, tmp_path: Path, capsys):
    """Over eight devices, in bfloat16, with scanned layers that are recomputed."""
    command = ["finetune", str(base), str(data), "--run-dir", str(tmp_path / "run")]
    command += ["--lora.rank", "4", "--epochs", "4", "--row-length", "32", "--scan-layers"]
    command += ["--mesh.fsdp", "4", "--mesh.data", "2", "--log-every", "1"]
    assert griffin(command) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "2 examples, 76 tokens, of which 11 (14%) are answers" in said
    assert "2 are longer than a row of 32 tokens, 2 of them before their first answer" in said
    assert "2 steps of 8 x 32 tokens" in said
    assert "step 2 of 2: loss " in said
    assert load_checkpoint(tmp_path / "run")[1].num_layers == 2


def test_defaults(base: Path, data: Path, tmp_path: Path):
    made = FinetuneArguments(checkpoint=base, data=(str(data),), row_length=64)
    full = plan(dataclasses.replace(made, epochs=1000.0))
    assert full.config.optimizer.learning_rate == 1e-5
    assert full.config.optimizer.weight_decay == 0.0
    assert full.config.optimizer.warmup_steps == round(0.03 * full.config.steps)
    assert full.run_dir == Path("runs/hf-tuned")
    assert full.data.long_documents == "carry"
    assert full.config.model.dtype == "bfloat16"
    low = plan(dataclasses.replace(made, lora=LoraArguments(rank=4)))
    assert low.config.optimizer.learning_rate == 2e-4
    assert low.lora == LoraConfig(rank=4, alpha=8.0)
    assert low.config.steps == 1
    assert "besides activations" in low.summary


def test_errors(base: Path, data: Path, tmp_path: Path, config: GriffinConfig):
    good = arguments(base, data, tmp_path / "run")

    def error(message: str, **changes: object) -> None:
        with pytest.raises(ValueError, match=message):
            plan(dataclasses.replace(good, **changes))

    error("no such file or directory", checkpoint=tmp_path / "absent")
    error("no file matches", data=(str(tmp_path / "absent.jsonl"),))
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
    store.write(bare, dict(flat_params(Griffin(config, rngs=nnx.Rngs(0)))), config)
    error("no tokenizer lies beside this checkpoint.*--tokenizer", checkpoint=bare)
    assert plan(dataclasses.replace(good, checkpoint=bare, tokenizer=str(base))).base.path == bare
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


def test_memory_is_what_is_held(config: GriffinConfig):
    lora = LoraConfig(rank=4)
    stored = dataclasses.replace(config, param_dtype="bfloat16")
    model = adapting.adapt(Griffin(stored, rngs=nnx.Rngs(0)), lora, seed=0)
    _, params, frozen = adapting.split(model)
    sizes = [sum(x.nbytes for x in jax.tree.leaves(tree)) for tree in (params, frozen)]
    found = memory(stored, lora)
    assert found["parameters"] == sum(sizes)
    assert found["gradients"] == sizes[0]
    assert found["bytes"] == sum(sizes) + 3 * sizes[0]
    full = memory(config, None)
    whole = sum(x.nbytes for x in jax.tree.leaves(nnx.state(Griffin(config, rngs=nnx.Rngs(0)))))
    assert full["bytes"] == 4 * whole


def test_the_numbers_of_the_documentation():
    """docs/finetuning.md"""
    gib = {}
    for name, preset in (("2b", recurrentgemma_2b()), ("9b", recurrentgemma_9b())):
        stored = dataclasses.replace(preset, param_dtype="bfloat16")
        for lora in (None, LoraConfig(rank=16)):
            gib[name, lora is not None] = round(memory(stored, lora)["bytes"] / 2**30, 1)
    assert gib == {("2b", False): 40.0, ("2b", True): 5.3, ("9b", False): 127.9, ("9b", True): 16.7}


def test_no_adapters_for_rank_zero():
    assert lora_config(LoraArguments()) is None
    assert lora_config(LoraArguments(rank=8, alpha=4.0)) == LoraConfig(rank=8, alpha=4.0)
