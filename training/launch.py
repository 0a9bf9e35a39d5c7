# SPDX-License-Identifier: Apache-2.0
"""How and where a run is computed: what may differ each time that it goes on.

runs/NAME/launch.json     how it was started last, which `griffin train --run-dir runs/NAME`
                          does again
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from checkpoints import processes
from checkpoints.files import new_file
from checkpoints.model_json import read_json
from recurrentgemma import config_json, sharding
from recurrentgemma.errors import UserError
from recurrentgemma.sharding import MeshConfig, make_mesh
from training.cluster import ClusterConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """The devices and processes of this start of a run, and who watches it."""

    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    cluster: ClusterConfig = dataclasses.field(default_factory=ClusterConfig)
    devices: int = 0
    """Use only the first so many devices; 0: all of them."""
    tensorboard: bool = True
    """Write RUN_DIR/tensorboard as well as RUN_DIR/metrics.jsonl."""
    wandb: str = ""
    """The Weights & Biases project to report to; needs `pip install wandb`."""
    profile: int = 0
    """Trace so many steps, once the first two are over, into RUN_DIR/profile (for XProf)."""
    stopped_status: int = 0
    """Exit status of a run that a signal stopped before its last step. A scheduler that is to start
    it again wants another than 0, such as 75."""

    def __post_init__(self) -> None:
        for name in ("devices", "profile"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)}: expected 0 or more")
        if not 0 <= self.stopped_status <= 255:
            raise UserError(f"stopped_status={self.stopped_status}: expected 0 to 255")

    def make_mesh(self) -> Mesh | None:
        """The mesh of the devices to use; None for a single one, which needs none.

        Raises:
          UserError: the mesh does not fit the devices, or there are fewer than asked for.
        """
        devices = jax.devices()
        if self.devices:
            if self.devices > len(devices):
                raise UserError(f"devices={self.devices}: there are {len(devices)}")
            if jax.process_count() > 1:
                raise UserError(
                    f"devices={self.devices} with {jax.process_count()} processes: each process "
                    "must have a part in the mesh; leave --devices out"
                )
            devices = devices[: self.devices]
        self.mesh.resolved(len(devices))
        return None if len(devices) == 1 else make_mesh(self.mesh, devices)


FILE = "launch.json"
KEPT = ("mesh", "devices", "tensorboard", "wandb", "stopped_status")
"""What belongs to a run's machine. Which processes there are is found anew at each start."""


def remember(run_dir: Path, launch: Launch) -> None:
    """Write down, in the first process, how a run is started."""
    fields = config_json.to_json(launch)
    kept: dict[str, Any] = {name: fields[name] for name in KEPT}

    def write() -> None:
        if processes.is_first():
            with new_file(run_dir / FILE) as unfinished:
                unfinished.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")

    processes.all_or_none(write)


def remembered(run_dir: Path) -> Launch:
    """How a run was started last; of one that does not say, as any run is.

    Raises UserError: launch.json is damaged.
    """
    path = run_dir / FILE
    if not path.is_file():
        return Launch()
    try:
        return config_json.from_json(Launch, read_json(path))
    except UserError as error:
        raise UserError(f"{path}: {error}; correct it, or delete it") from None


def own_rows(mesh: Mesh | None, batch_size: int) -> range:
    """The rows of a batch that this process's devices take a part in.

    Raises:
      UserError: the mesh lays them out so that a process has rows that are not neighbours.
    """
    if mesh is None or jax.process_count() == 1:
        return range(batch_size)
    places = NamedSharding(mesh, sharding.ROWS)
    indices = places.addressable_devices_indices_map((batch_size,)).values()
    rows = {row for index in indices if index for row in range(*index[0].indices(batch_size))}
    own = range(min(rows), max(rows) + 1)
    if len(own) != len(rows):
        raise UserError(
            f"process {jax.process_index()} has the rows {sorted(rows)} of a batch, which are not "
            "neighbours; choose a mesh whose data and fsdp axes go from process to process"
        )
    return own
