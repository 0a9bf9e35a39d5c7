# SPDX-License-Identifier: Apache-2.0
"""Small models to write and read: the golden one, and random ones that every format can hold; small
adapters, and small checkpoints; hubs to fetch them from by name."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import requests

from checkpoints import deepmind_flax, huggingface, store
from checkpoints.adapters import Adapters
from checkpoints.convert import convert
from checkpoints.model_json import read_model_json
from checkpoints.open_checkpoint import OpenCheckpoint, StoredTensor, read_params
from recurrentgemma.config import GriffinConfig
from recurrentgemma.parameters import param_shapes
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from tests.checkpoints import run_steps
from tests.checkpoints.fake_hub import FakeHub, Files, fake_hub, files_in, use_cache

GOLDEN = Path(__file__).parents[1] / "golden"
SHARED = Path(__file__).parents[3] / "shared" / "golden"  # the stored originals, on some machines


def small_config(**changes) -> GriffinConfig:
    """Four blocks, the last of them a tail; every size another number."""
    config = GriffinConfig(
        width=24,
        mlp_width=40,
        num_layers=4,
        lru_width=36,
        num_gate_blocks=3,
        num_heads=3,
        head_dim=8,
        vocab_size=50,
        attention_window=16,
        scale_embeddings=True,
        logits_soft_cap=30.0,
    )
    return dataclasses.replace(config, **changes)


def random_params(config: GriffinConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Parameters by canonical name; no two elements alike, so that a wrong order shows."""
    generator = np.random.default_rng(seed)
    dtype = jnp.dtype(config.param_dtype)
    return {
        name: generator.standard_normal(shape).astype(np.float32).astype(dtype)
        for name, shape in param_shapes(config).items()
    }


def assert_same_bits(got: Any, expected: Any) -> None:
    """Two dictionaries of arrays are equal in names, shapes, dtypes and every bit."""
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        other = np.asarray(got[name])
        assert (other.dtype, other.shape) == (array.dtype, array.shape), name
        assert other.tobytes() == np.asarray(array).tobytes(), name


def small_adapters(base: str, rank: int = 2, path: str = "here") -> Adapters:
    """Random adapters of every linear layer of `small_config`."""
    params = random_params(small_config())
    rng = np.random.default_rng(3)
    pairs = {}
    for name, weight in params.items():
        if name.endswith("/weight"):
            shapes = (weight.shape[1], rank), (rank, weight.shape[0])
            a, b = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
            pairs[name.removesuffix("/weight")] = a, b
    return Adapters(Path(path), pairs, rank, 3.0, base)


def change_config(folder: Path, **fields) -> None:
    """Set fields of a Hugging Face folder's config.json."""
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | fields))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """What `small_adapters` are for."""
    store.write(tmp_path / "base", random_params(small_config()), small_config())
    return tmp_path / "base"


OURS = small_config(vocab_size=261)


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A checkpoint of OURS in our format, with a tokenizer."""
    store.write(tmp_path / "ours", random_params(OURS), OURS)
    ByteTokenizer().save(tmp_path / "ours")
    return tmp_path / "ours"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkpoint as DeepMind's own code writes it: no config of ours inside."""
    config = small_config()
    deepmind_flax.write(tmp_path / "dm", random_params(config), config)
    (tmp_path / "dm" / "config.json").unlink()
    return tmp_path / "dm"


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A Hugging Face folder."""
    config = small_config()
    huggingface.write(tmp_path / "hf", random_params(config), config)
    return tmp_path / "hf"


@pytest.fixture(scope="session")
def golden() -> tuple[GriffinConfig, dict[str, np.ndarray]]:
    """The golden model's config and parameters by canonical name."""
    config = read_model_json(GOLDEN / "config.json")
    assert config is not None
    return config, canonical(GOLDEN / "params.npz")


def canonical(file: Path) -> dict[str, np.ndarray]:
    """An npz of arrays under DeepMind's Flax names, by canonical name."""
    stored = dict(np.load(file))
    tensors = {name: StoredTensor(array.shape, array.dtype.name) for name, array in stored.items()}

    def read(dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
        yield from stored.items()

    return dict(read_params(OpenCheckpoint(file, "deepmind-flax", tensors, read), "float32"))


@pytest.fixture(scope="session")
def formats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    """One model in several formats, as repositories that also hold what nobody here reads."""
    config, home = small_config(vocab_size=261), tmp_path_factory.mktemp("formats")
    store.write(home / "griffin", random_params(config), config)
    ByteTokenizer().save(home / "griffin")
    for name in ("huggingface", "deepmind-flax"):
        convert(home / "griffin", home / name, name)
    shards = home / "shards"
    huggingface.write(shards, random_params(config), config, shard_bytes=40_000)
    run = home / "run"
    store.write_run_config(run, config, {})
    run_steps.save(run, 5, random_params(config, 1), keep=2)
    run_steps.save(run, 10, random_params(config), keep=2)
    kaggle = {f"2b-it/{p}": c for p, c in files_in(home / "deepmind-flax").items()}
    others = {
        "README.md": b"# A model",
        "pytorch_model.bin": b"pickle",
        "model.Q4.gguf": b"GGUF",
        "checkpoint-100/model.safetensors": b"an older step",
    }
    repositories = {n: files_in(home / n) for n in ("griffin", "huggingface", "shards", "run")}
    return {n: files | others for n, files in repositories.items()} | {"deepmind": kaggle}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.chdir(tmp_path)
    with fake_hub(tmp_path / "hub") as server:
        yield server


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network, and a cache, which is empty."""
    monkeypatch.chdir(tmp_path)
    use_cache(monkeypatch, tmp_path / "hub", offline=True)
    return tmp_path / "hub"


@pytest.fixture
def kagglehub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """kagglehub's one function and its errors; it is not among what the tests install."""
    errors = SimpleNamespace(
        requests=requests,
        UnauthenticatedError=type("UnauthenticatedError", (Exception,), {}),
        DataCorruptionError=type("DataCorruptionError", (Exception,), {}),
    )
    module = SimpleNamespace(exceptions=errors, model_download=None)
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    monkeypatch.setitem(sys.modules, "kagglehub.exceptions", errors)
    return module
