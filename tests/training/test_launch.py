# SPDX-License-Identifier: Apache-2.0
"""Devices, mesh and rows of one start of a run."""

import dataclasses

import jax
import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.sharding import MeshConfig, make_mesh
from training import loop
from training.cluster import ClusterConfig
from training.launch import Launch, own_rows, remember, remembered


def test_one_device_needs_no_mesh():
    assert Launch(devices=1).make_mesh() is None
    mesh = Launch().make_mesh()
    assert mesh is not None
    assert dict(mesh.shape) == {"data": 8, "fsdp": 1, "sequence": 1, "tensor": 1}
    assert own_rows(mesh, 16) == range(16)
    assert Launch(devices=4, mesh=MeshConfig(tensor=2)).make_mesh() == make_mesh(
        MeshConfig(data=2, tensor=2), jax.devices()[:4]
    )


def test_what_does_not_fit_the_devices():
    with pytest.raises(ValueError, match=r"devices=9: there are 8"):
        Launch(devices=9).make_mesh()
    with pytest.raises(ValueError, match="devices=-1: expected 0 or more"):
        Launch(devices=-1)
    with pytest.raises(ValueError, match="stopped_status=256: expected 0 to 255"):
        Launch(stopped_status=256)
    with pytest.raises(ValueError, match=r"tensor=3 takes a multiple of 3 .* tensor=2 would fit"):
        Launch(mesh=MeshConfig(tensor=3)).make_mesh()
    with pytest.raises(ValueError, match=r"tensor=2 takes 2 devices and there are 1"):
        Launch(devices=1, mesh=MeshConfig(data=1, tensor=2)).make_mesh()


def test_how_a_run_was_started_is_remembered(tmp_path):
    """But for what belongs to one start of it."""
    assert remembered(tmp_path) == Launch()
    mesh, cluster = MeshConfig(data=1, fsdp=-1), ClusterConfig(process=3)
    launch = Launch(mesh=mesh, cluster=cluster, devices=4, profile=5, stopped_status=75, wandb="w")
    remember(tmp_path, launch)
    assert remembered(tmp_path) == dataclasses.replace(launch, cluster=ClusterConfig(), profile=0)
    (tmp_path / "launch.json").write_text('{"mush": 1}')
    with pytest.raises(UserError, match=r"launch\.json: unknown Launch field 'mush'.*delete it"):
        remembered(tmp_path)


@pytest.mark.parametrize(
    ("config", "mine", "rows"),
    [
        (MeshConfig(data=4, tensor=2), slice(0, 4), range(8)),
        (MeshConfig(data=4, tensor=2), slice(4, 8), range(8, 16)),
        (MeshConfig(data=1, fsdp=2, sequence=4), slice(2, 4), range(8)),
        (MeshConfig(data=1, sequence=8), slice(4, 8), range(16)),
    ],
)
def test_the_rows_of_one_process(config, mine, rows, monkeypatch):
    mesh = make_mesh(config)
    devices = mesh.devices.flat[mine]

    def addressable(self, shape):
        indices = self.devices_indices_map(shape)
        return {device: index for device, index in indices.items() if device in set(devices)}

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax.NamedSharding, "addressable_devices_indices_map", addressable)
    assert own_rows(mesh, 16) == rows


def test_rows_that_are_not_neighbours(monkeypatch):
    mesh = make_mesh(MeshConfig(data=8))
    some = {mesh.devices.flat[0], mesh.devices.flat[5]}

    def addressable(self, shape):
        return {d: i for d, i in self.devices_indices_map(shape).items() if d in some}

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax.NamedSharding, "addressable_devices_indices_map", addressable)
    with pytest.raises(ValueError, match=r"the rows \[0, 5\] of a batch, which are not neighbours"):
        own_rows(mesh, 8)


def test_a_mesh_that_does_not_fit_the_run_is_refused_before_it_begins(small, tmp_path):
    run_dir = tmp_path / "run"
    with pytest.raises(ValueError, match=r"a batch of 4 rows does not divide .* data=8"):
        loop.train(small, run_dir)
    with pytest.raises(ValueError, match=r"tensor=8 does not divide the model's .*is tensor=1"):
        loop.train(small, run_dir, Launch(mesh=MeshConfig(data=1, tensor=8)))
    parts = dataclasses.replace(small, grad_accumulation_steps=2)
    with pytest.raises(ValueError, match=r"a batch of 2 rows does not divide .* data=4"):
        loop.train(parts, run_dir, Launch(devices=4))
    assert not run_dir.exists()
