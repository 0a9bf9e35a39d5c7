# SPDX-License-Identifier: Apache-2.0
"""The options that evaluations share: without prefixes, and with errors that say what to do."""

import dataclasses
from pathlib import Path

import jax
import pytest
import tyro

from eval.options import Model, ModelOptions, ModelPath, Result, ResultOptions, Sources
from recurrentgemma.errors import UserError
from recurrentgemma.sharding import MeshConfig
from tests.docs.world import write_model


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
    write_model(tmp_path / "run")
    assert ModelOptions(dtype="bfloat16").load(str(tmp_path / "run")).config.dtype == "bfloat16"
    (tmp_path / "run" / "byte_tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer, so it cannot read text"):
        ModelOptions().load(str(tmp_path / "run"))
