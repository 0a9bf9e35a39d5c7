# SPDX-License-Identifier: Apache-2.0
"""The options that evaluations share: without prefixes, and with errors that say what to do."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
import tyro

from eval.options import (
    Model,
    ModelOptions,
    ModelPath,
    Result,
    ResultOptions,
    Sources,
    identity,
)
from recurrentgemma.errors import UserError
from recurrentgemma.presets import MQA
from recurrentgemma.sharding import MeshConfig
from tests.docs.world import CONFIG, write_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    path: ModelPath
    data: Sources
    model: Model = dataclasses.field(default_factory=ModelOptions)
    result: Result = dataclasses.field(default_factory=ResultOptions)


def test_they_have_no_prefix():
    argv = "runs/a --data text:a text:b --dtype bfloat16 --mesh.tensor 2 --out here --json"
    arguments = tyro.cli(Arguments, args=argv.split())
    assert arguments == Arguments(
        path="runs/a",
        data=("text:a", "text:b"),
        model=ModelOptions(dtype="bfloat16", mesh=MeshConfig(tensor=2)),
        result=ResultOptions(out=Path("here"), json=True),
    )


def test_a_mesh_is_of_all_devices_or_of_some():
    assert ModelOptions(devices=1).make_mesh() is None
    mesh = ModelOptions(devices=4, mesh=MeshConfig(tensor=2)).make_mesh()
    assert mesh is not None
    assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "sequence": 1, "tensor": 2}
    whole = ModelOptions().make_mesh()
    assert whole is not None
    assert whole.size == len(jax.devices())
    with pytest.raises(UserError, match="devices=99: there are 8"):
        ModelOptions(devices=99).make_mesh()
    with pytest.raises(UserError, match="mesh data=3"):
        ModelOptions(devices=4, mesh=MeshConfig(data=3)).make_mesh()


def test_a_model_must_read_text(tmp_path: Path):
    write_model(tmp_path / "run", dataclasses.replace(CONFIG, num_layers=1))
    assert ModelOptions(dtype="bfloat16").load(str(tmp_path / "run")).config.dtype == "bfloat16"
    (tmp_path / "run" / "byte_tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer, so it cannot read text"):
        ModelOptions().load(str(tmp_path / "run"))


def test_a_model_lies_on_the_mesh_and_holds_as_many_keys_as_asked(tmp_path: Path):
    config = dataclasses.replace(CONFIG, pattern=MQA, context_length=16, num_layers=1)
    write_model(tmp_path / "mqa", config)
    options = ModelOptions(devices=2, mesh=MeshConfig(tensor=2))
    lm, model = options.load_on(str(tmp_path / "mqa"), options.make_mesh(), context=40)
    assert lm.config.context_length == model.config.context_length == 40
    table = model.embedder.input_embedding[...]
    assert len(table.sharding.device_set) == 2
    np.testing.assert_array_equal(table, lm.model.embedder.input_embedding[...])
    same, _ = ModelOptions().load_on(str(tmp_path / "mqa"), None, context=8)
    assert same.config.context_length == 16
    assert identity(same) == identity(lm)
    halved = ModelOptions(dtype="bfloat16").load(str(tmp_path / "mqa"))
    assert identity(halved).keys() == {"weights", "dtype", "tokenizer"}
    assert identity(halved) != identity(lm)
    wide = ModelOptions(mesh=MeshConfig(tensor=8))
    with pytest.raises(UserError, match="mesh axis tensor=8 does not divide"):
        wide.load_on(str(tmp_path / "mqa"), wide.make_mesh())
