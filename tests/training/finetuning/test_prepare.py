# SPDX-License-Identifier: Apache-2.0
"""From the arguments of a fine-tuning to its config: what follows from them, what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from checkpoints import store
from recurrentgemma.params import flat_params
from recurrentgemma.text.chat import chat_format, encode_chat
from recurrentgemma.text.tokenizer import find_tokenizer
from tests.drawn import untrained
from tests.training.finetuning.capitals import QUESTIONS, arguments, run
from training.configs import TrainConfig
from training.data.config import open_mixture
from training.finetuning.finetune_arguments import FinetuneArguments, LoraArguments
from training.finetuning.lora import LoraConfig
from training.finetuning.prepare import prepare
from training.run import begin_run, read_config, run_tokenizer


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
    error("has no field 'q'; it has 'prompt', 'response'", prompt="q")
    error("there is no chat template 'absent.jinja'", chat_template="absent.jinja")
    error("epochs=0.0: expected a number above 0", epochs=0.0)
    error("--lora.alpha has no effect without adapters", lora=LoraArguments(alpha=3.0))
    error("--lora.layers has no effect without adapters", lora=LoraArguments(layers=".*_up"))
    error("lora.rank=-1: expected at least 1", lora=LoraArguments(rank=-1))
    error("is the name of no linear layer", lora=LoraArguments(rank=2, layers="head"))
    error("weight_decay=0.1 has no effect by LoRA", lora=LoraArguments(rank=2), weight_decay=0.1)
    error("a batch of 6 rows does not divide", batch_size=6)
    error("warmup_steps=9000 leaves nothing of steps.*finetune` --warmup-steps", warmup_steps=9000)
    error("has options of its own", data=(f"chat:{data}?prompt=a",), response="b")
    bare = tmp_path / "bare"
    store.write(bare, dict(flat_params(untrained(small.model))), small.model)
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


CHATML = "{% for m in messages %}<start_of_turn>{{ m.role }} {{ m.content }}<end_of_turn>\n"
CHATML += "{% endfor %}{% if add_generation_prompt %}<start_of_turn>assistant {% endif %}"


def test_the_run_keeps_the_template_that_it_learned_by(base: Path, data: Path, tmp_path: Path):
    """So whoever generates with it writes chats as it has seen them, also once the file is gone."""
    file, run_dir = tmp_path / "my.jinja", tmp_path / "run"
    file.write_text(CHATML)
    prepared = prepare(arguments(base, data, run_dir, chat_template=str(file), answers="last"))
    config = prepared.config.with_absolute_paths()
    assert config.data.chat_template == str(file)
    assert config.data.sources == (f"chat:{data}?answers=last",)
    tokenizer = run_tokenizer(run_dir, config, ())
    begin_run(run_dir, config, tokenizer)
    file.write_text("another")
    kept = find_tokenizer(run_dir)
    assert kept is not None
    asked = encode_chat(kept, [{"role": "user", "content": "Hi"}])
    assert kept.decode(asked) == "<start_of_turn>user Hi<end_of_turn>\n<start_of_turn>assistant "
    again = run_tokenizer(run_dir, read_config(run_dir), ())
    assert chat_format(again).name == chat_format(tokenizer).name


def test_a_base_with_a_template_of_its_own(base: Path, data: Path, tmp_path: Path):
    """It is the default; asked for Gemma's format, the run has that. A run from before there was a
    choice goes on as it began."""
    own = tmp_path / "base"
    shutil.copytree(base, own)
    (own / "chat_template.jinja").write_text(CHATML)
    names = {}
    for given in ("auto", "gemma", "none"):
        run_dir = tmp_path / given
        config = prepare(arguments(own, data, run_dir, chat_template=given)).config
        tokenizer = run_tokenizer(run_dir, config, ())
        mixture = open_mixture(config.data, tokenizer, vocab_size=config.model.vocab_size)
        names[given] = mixture.parts[0].fingerprint.split()[1]
        begin_run(run_dir, config, tokenizer)
    assert names["auto"].startswith("template:")
    assert (names["gemma"], names["none"]) == ("gemma", "none")
    saved = json.loads((tmp_path / "auto/config.json").read_text())
    del saved["train"]["data"]["chat_template"]
    (tmp_path / "auto/config.json").write_text(json.dumps(saved))
    older = prepare(arguments(own, data, tmp_path / "auto")).config
    assert older.data.chat_template == "gemma"
    assert older.data == read_config(tmp_path / "auto").data
    tokenizer = run_tokenizer(tmp_path / "auto", older, ())
    assert chat_format(tokenizer).name == "gemma"
