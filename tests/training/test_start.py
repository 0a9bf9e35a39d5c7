# SPDX-License-Identifier: Apache-2.0
"""What a model preset is completed with: text, tokenizer, vocabulary."""

import dataclasses
import json
from pathlib import Path

import pytest

import recurrentgemma as rg
from checkpoints.convert import convert
from recurrentgemma.errors import UserError
from recurrentgemma.params import flat_params
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from tests.checkpoints import run_steps
from tests.drawn import untrained
from training import run
from training.configs import TrainConfig
from training.data.config import DataConfig
from training.data.shard_writer import tokenise
from training.named_runs import run_named
from training.start import complete, require_data


def with_sources(*sources: str, tokenizer: str = "", **fields) -> TrainConfig:
    config = dataclasses.replace(run_named("griffin_100m"), data=DataConfig(sources=sources))
    return dataclasses.replace(config, tokenizer=tokenizer, **fields)


def test_a_model_preset_needs_something_to_learn_from():
    with pytest.raises(UserError, match=r"griffin_1b has nothing to .* `griffin train --preset gr"):
        require_data("griffin_1b", run_named("griffin_1b"))
    require_data("griffin_100m", with_sources("text:a"))
    require_data("griffin_100m", dataclasses.replace(run_named("griffin_100m"), text=("a",)))
    require_data("tiny", run_named("tiny"))
    require_data("", run_named("griffin_1b"))  # a run that goes on says it in its config


def test_the_vocabulary_is_the_tokenizers_rounded_up():
    assert ByteTokenizer().vocab_size == 261
    config = with_sources("text:a", tokenizer="bytes")
    assert complete(config).model.vocab_size == 384
    assert complete(config, tensor=8).model.vocab_size == 1024
    given = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=300))
    assert complete(given, vocabulary_given=True).model.vocab_size == 300
    small = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=200))
    small = complete(small, vocabulary_given=True)
    with pytest.raises(UserError, match=r"vocab_size=200 is too small .* 261 ids; choose"):
        run.run_tokenizer(Path("nowhere"), small, ())


def test_token_shards_bring_their_tokenizer(tmp_path: Path):
    (tmp_path / "a.txt").write_text("a few words")
    tokenise([f"text:{tmp_path}/a.txt"], "bytes", tmp_path / "tokens", workers=1)
    for where in ("tokens", "tokens/tokens-0*"):
        config = complete(with_sources("text:a", f"arrayrecord:{tmp_path}/{where}"))
        assert config.tokenizer == str(tmp_path / "tokens")
        assert config.model.vocab_size == 384
    other = with_sources(f"arrayrecord:{tmp_path}/tokens", tokenizer="bytes")
    assert complete(other).tokenizer == "bytes"


def test_without_a_tokenizer():
    for vocabulary_given in (False, True):
        with pytest.raises(UserError, match="there is no tokenizer: give --tokenizer the path"):
            complete(with_sources("text:a"), vocabulary_given=vocabulary_given)
    pieces = with_sources(tokenizer="sentencepiece")
    with pytest.raises(UserError, match=r"say how many, such as --model\.vocab-size 32768"):
        complete(pieces)
    assert complete(pieces, vocabulary_given=True).model.vocab_size == 256_000
    with pytest.raises(UserError, match="there is no tokenizer file absent"):
        complete(with_sources("text:a", tokenizer="absent"))


def test_a_run_that_goes_on_keeps_its_own():
    """Another mesh would round the vocabulary to another multiple."""
    saved = complete(with_sources("text:a", tokenizer="bytes"))
    again = complete(with_sources("text:a"), tensor=8, saved=saved)
    assert (again.tokenizer, again.model.vocab_size) == ("bytes", 384)
    config = with_sources("text:a")
    asked = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=512))
    assert complete(asked, saved=saved, vocabulary_given=True).model.vocab_size == 512


@pytest.fixture
def rounded(small: TrainConfig, tmp_path: Path) -> Path:
    """A run of random parameters with 384 embeddings for 261 ids."""
    model = dataclasses.replace(small.model, vocab_size=384)
    config = dataclasses.replace(small, model=model)
    run.begin_run(tmp_path / "run", config, ByteTokenizer())
    params = flat_params(untrained(model))
    run_steps.save(tmp_path / "run", 1, params)
    return tmp_path / "run"


def test_a_start_brings_its_vocabulary_and_tokenizer(rounded: Path):
    config = complete(with_sources("text:a", init_from=str(rounded)))
    assert (config.tokenizer, config.model.vocab_size) == (str(rounded), 384)


@pytest.mark.parametrize("form", ["huggingface", "griffin"])
def test_rounded_embeddings_are_exported(rounded: Path, tmp_path: Path, form):
    convert(rounded, tmp_path / "out", form)
    if form == "huggingface":
        written = json.loads((tmp_path / "out" / "config.json").read_text())
        assert written["vocab_size"] == 384
        ids = (written["bos_token_id"], written["eos_token_id"], written["pad_token_id"])
        assert max(ids) < 261
    lm = rg.load(tmp_path / "out")
    assert lm.tokenizer is not None
    assert (lm.config.vocab_size, lm.tokenizer.vocab_size) == (384, 261)
    drawn = lm.generate("Ay", max_tokens=40, temperature=9.0, seed=0)  # nearly uniform over ids
    assert drawn == rg.load(rounded).generate("Ay", max_tokens=40, temperature=9.0, seed=0)
