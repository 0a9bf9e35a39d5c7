# SPDX-License-Identifier: Apache-2.0
"""The file of an adapter: of which model it is, and what is refused."""

import dataclasses
import shutil

import optax
import pytest

from eval.dynamic.adapter import OnlineAdapter
from eval.dynamic.config import DynamicConfig, OptimizerConfig
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from tests.eval.dynamic.small import CONFIG, PLAIN, language_model, statistics


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapters") / "a"
    rms = OptimizerConfig(algorithm="rms", learning_rate=1e-3)
    choices = dataclasses.replace(PLAIN, optimizer=rms)
    OnlineAdapter(language_model(), choices, statistics=statistics()).save(path)
    return path


def test_statistics_are_in_it(saved):
    adapter = OnlineAdapter.load(saved, language_model())
    assert adapter.statistics is not None
    assert adapter.statistics.fingerprint == statistics().fingerprint


def test_it_is_bound_to_its_model(saved):
    with pytest.raises(UserError, match="adapts another model, with weights"):
        OnlineAdapter.load(saved, language_model(seed=1))
    wide = dataclasses.replace(CONFIG, mlp_width=32)
    with pytest.raises(UserError, match="adapts another model, with weights"):
        OnlineAdapter.load(saved, language_model(wide))
    tokenizer = ByteTokenizer()
    tokenizer.eos_id = tokenizer.pad_id  # which gives texts other ids
    other = LanguageModel(language_model().model, tokenizer)
    with pytest.raises(UserError, match="was fed with another tokenizer"):
        OnlineAdapter.load(saved, other)
    OnlineAdapter.load(saved, LanguageModel(language_model().model))


def test_a_damaged_file_and_others_are_refused(saved, tmp_path):
    whole = saved.read_bytes()
    for name, content, message in (
        ("short", whole[: len(whole) // 2], "not a saved adapter, or damaged"),
        ("flipped", whole[:-3] + bytes([whole[-3] ^ 4]) + whole[-2:], "not what was saved"),
        ("text", b"hello", "not a saved adapter, or damaged"),
        (
            "newer",
            whole.replace(b'"version":"1"', b'"version":"2"', 1),
            "format 2, and this griffin-lm reads format 1",
        ),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            OnlineAdapter.load(tmp_path / name, language_model())
    with pytest.raises(UserError, match="there is no saved adapter"):
        OnlineAdapter.load(tmp_path / "none", language_model())


def test_nothing_else_is_written_over(saved, tmp_path):
    adapter = OnlineAdapter.load(saved, language_model())
    (tmp_path / "notes").write_text("mine")
    for path, message in (
        (tmp_path / "notes", "is there and is not a saved adapter"),
        (tmp_path, "is there and is not a saved adapter"),
        (tmp_path / "none" / "a", "there is no directory"),
    ):
        with pytest.raises(UserError, match=message):
            adapter.save(path)
    assert (tmp_path / "notes").read_text() == "mine"
    shutil.copy(saved, tmp_path / "b")
    adapter.save(tmp_path / "b")
    assert OnlineAdapter.load(tmp_path / "b", language_model()).choices == adapter.choices


def test_an_optimizer_of_its_own_is_named_again(tmp_path):
    tx = optax.sgd(0.1)
    OnlineAdapter(language_model(), DynamicConfig(segment_length=8), tx=tx).save(tmp_path / "a")
    with pytest.raises(UserError, match="saved with a tx of its own: load it with the same"):
        OnlineAdapter.load(tmp_path / "a", language_model())
    OnlineAdapter.load(tmp_path / "a", language_model(), tx=tx)
    with pytest.raises(UserError, match=r"a cannot be gone on with: .* of another optimizer"):
        OnlineAdapter.load(tmp_path / "a", language_model(), tx=optax.lion(1e-3))
