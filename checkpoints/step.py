# SPDX-License-Identifier: Apache-2.0
"""One checkpoint of a run on disk: what is in it, and whether it is what was written.

    STEP/params/  STEP/opt_state/    arrays, by Orbax
    STEP/data_state/metadata         JSON: where the data goes on
    STEP/config/metadata             JSON: {"model": GriffinConfig, "train": {...}}
    STEP/metrics/metadata            JSON: {"held_out_bits_per_byte": 1.5, ...}
    STEP/checksums/metadata          JSON: {"arrays": {"params": {NAME: sum}, ...},
                                            "json": {"config": sha256, ...}}

The first checkpoints had neither config nor metrics nor checksums, and are taken as they are.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.future import CommitFutureAwaitingContractedSignals

from checkpoints import checksums, files, orbax_tree, processes
from checkpoints.model_json import read_json
from checkpoints.open_checkpoint import Damaged
from recurrentgemma.errors import UserError

PARAMS, OPT_STATE, DATA_STATE = "params", "opt_state", "data_state"
CONFIG, METRICS, CHECKSUMS = "config", "metrics", "checksums"
CONTENT = "metadata"  # what Orbax calls the file of a JSON item


class Checksums(NamedTuple):
    """Of the arrays of each tree by name, and of each JSON item."""

    arrays: dict[str, dict[str, int]]
    json: dict[str, str]


class Restored(NamedTuple):
    """What one step held; opt_state and data_state are None where it held none, or was not asked
    for its opt_state."""

    step: int
    params: dict[str, jax.Array]
    opt_state: Any
    data_state: dict[str, Any] | None


class StepHandler(ocp.CompositeCheckpointHandler):
    """Orbax's, that also knows when its threads are done after one of them has failed."""

    _writing: Sequence[Any] = ()

    async def async_save(self, directory: Any, args: Any) -> list[Any] | None:
        futures = await super().async_save(directory, args)
        self._writing = futures or ()
        return futures

    def settle(self) -> None:
        """Wait until nothing is being written, whatever came of it."""
        for future in self._writing:
            with contextlib.suppress(Exception):  # the first of them was raised already
                future.result()


@ocp.args.register_with_handler(StepHandler, for_save=True, for_restore=True)
class StepItems(ocp.args.Composite):
    """What is in a step, by item."""


def step_handler() -> StepHandler:
    """Without compression: zstd makes float32 weights 8% smaller and takes three times as long."""
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for item in (PARAMS, OPT_STATE):
        handler = ocp.PyTreeCheckpointHandler(use_compression=False)
        registry.add(item, ocp.args.PyTreeSave, handler)
    return StepHandler(handler_registry=registry)


def items(
    params: Mapping[str, Any],
    *,
    config: dict[str, Any],
    metrics: dict[str, float],
    opt_state: Any = None,
    data_state: dict[str, Any] | None = None,
) -> StepItems:
    """A step to be written. Dispatches the checksums of its arrays."""
    trees: dict[str, Any] = {PARAMS: params}
    if opt_state is not None:
        trees[OPT_STATE] = opt_state
    contents = {CONFIG: config, METRICS: metrics}
    if data_state is not None:
        contents[DATA_STATE] = data_state
    sums = {item: checksums.start(tree) for item, tree in trees.items()}
    hashes = {item: _sha256(content) for item, content in contents.items()}
    return StepItems(
        **{item: ocp.args.PyTreeSave(orbax_tree.nested(tree)) for item, tree in trees.items()},
        **{item: ocp.args.JsonSave(content) for item, content in contents.items()},
        **{CHECKSUMS: ChecksumsSave(sums, hashes)},
    )


class ChecksumsHandler(ocp.AsyncCheckpointHandler):
    """Writes the checksums from the background: on a slow device they are there only later."""

    def save(self, directory: Any, args: "ChecksumsSave") -> None:
        asyncio.run(self._write(directory, args))

    async def async_save(self, directory: Any, args: "ChecksumsSave") -> list[Any]:
        write = self._write(directory, args)
        return [CommitFutureAwaitingContractedSignals(write, name="checksums")]

    async def _write(self, directory: Any, args: "ChecksumsSave") -> None:
        if processes.is_first():
            arrays = {item: checksums.finish(sums) for item, sums in args.arrays.items()}
            write_checksums(Path(directory), arrays, args.json)

    def restore(self, directory: Any, args: Any = None) -> dict[str, Any]:
        return read_json(Path(directory) / CONTENT)


@ocp.args.register_with_handler(ChecksumsHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class ChecksumsSave(ocp.args.CheckpointArgs):
    """The started checksums of each tree, and the hashes of each JSON item."""

    arrays: dict[str, dict[str, Any]]
    json: dict[str, str]


def write_checksums(
    folder: Path, arrays: Mapping[str, Mapping[str, int]], hashes: Mapping[str, str]
) -> None:
    """Write the file in CHECKSUMS/, which exists."""
    text = json.dumps({"arrays": arrays, "json": hashes})
    (folder / CONTENT).write_text(text, encoding="utf-8")


def read_checksums(folder: Path) -> Checksums | None:
    """What a checkpoint says of itself; None for one that says nothing.

    Raises:
      Damaged: the file, or what it lists, is missing or unreadable.
    """
    if not files.is_dir(folder / CHECKSUMS):
        if files.is_dir(folder / CONFIG):
            raise Damaged(f"{folder}: its {CHECKSUMS}/ is missing; use an earlier one")
        return None
    content = _content(folder, CHECKSUMS)
    try:
        arrays = {item: dict(sums) for item, sums in content["arrays"].items()}
        hashes, _ = dict(content["json"]), arrays[PARAMS]
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise Damaged(f"{folder / CHECKSUMS / CONTENT}: not what was written ({error})") from error
    for item in (*arrays, *hashes):
        if not files.is_dir(folder / item):
            raise Damaged(f"{folder}: its {item}/ is missing; use an earlier one")
    return Checksums(arrays, hashes)


def read_content(folder: Path, item: str) -> dict[str, Any] | None:
    """One of the JSON items of a step; None where it has none.

    Raises:
      Damaged: it is not what was written.
    """
    sums = read_checksums(folder)
    if not files.is_dir(folder / item):
        return None
    content = _content(folder, item)
    if sums is not None and _sha256(content) != sums.json.get(item):
        raise Damaged(
            f"{folder / item / CONTENT}: holds other values than were saved (its hash differs); "
            "use an earlier checkpoint"
        )
    return content


def check(folder: Path) -> None:
    """Look for damage that shows without reading the arrays.

    Raises:
      Damaged: something is missing, or a JSON file is not what was written.
      OSError: something cannot be opened or read, whatever is in it.
    """
    sums = read_checksums(folder)
    for item in sums.json if sums else (DATA_STATE,):
        read_content(folder, item)
    for item in sums.arrays if sums else (PARAMS,):
        if not orbax_tree.is_tree(folder / item):
            raise Damaged(f"{folder}: incomplete: {item}/ is not there; use an earlier one")


def read_back(folder: Path, *, part: int = 0, parts: int = 1) -> None:
    """Read all of a step that was just written, one array at a time, and keep nothing of it. Of
    several processes each reads a part of the arrays.

    Raises:
      Damaged: it is not what was written.
      OSError: something cannot be opened or read.
    """
    check(folder)
    sums = read_checksums(folder)
    assert sums is not None, "what is written now has checksums"
    for item, of_arrays in sums.arrays.items():
        tensors = orbax_tree.stored_tensors(folder / item)
        if lost := of_arrays.keys() ^ tensors.keys():
            raise orbax_tree.damaged(folder / item, "not in its list of tensors", repr(min(lost)))
        own = {name: tensors[name] for name in sorted(tensors)[part::parts]}
        for _ in orbax_tree.read_arrays(folder / item, own, None, of_arrays):
            pass


def read(
    folder: Path, params_like: Mapping[str, Any] | None = None, opt_state_like: Any = None
) -> Restored:
    """A step, checked as it is read; see Checkpoints.restore. All processes call it alike.

    Raises:
      Damaged: it is not what was written.
      ValueError: it is, but not like the trees asked for.
    """

    def without_arrays() -> tuple[Checksums | None, Any, Any]:
        check(folder)
        sums = read_checksums(folder)
        like = params_like
        if like is None:
            like = {
                name: jax.ShapeDtypeStruct(tensor.shape, np.dtype(tensor.dtype))
                for name, tensor in orbax_tree.stored_tensors(folder / PARAMS).items()
            }
        if opt_state_like is not None and not files.is_dir(folder / OPT_STATE):
            raise UserError(f"{folder}: holds no optimizer state, training cannot go on from it")
        return sums, like, read_content(folder, DATA_STATE)

    sums, like, data_state = processes.all_or_none(without_arrays)
    params = orbax_tree.read_like(folder / PARAMS, dict(like), sums=sums and sums.arrays[PARAMS])
    opt_state = None
    if opt_state_like is not None:
        known = sums and sums.arrays.get(OPT_STATE, {})
        opt_state = orbax_tree.read_like(
            folder / OPT_STATE, opt_state_like, sums=known, rounding=False
        )
    return Restored(int(folder.name), params, opt_state, data_state)


def ranked(
    metrics: Mapping[int, Mapping[str, float]], name: str | None, *, highest: bool
) -> list[int]:
    """The steps that have a metric, best first, of equals the newest first; none without a name."""
    if name is None:
        return []
    values = {step: of_step[name] for step, of_step in metrics.items() if name in of_step}
    finite = {step: value for step, value in values.items() if math.isfinite(value)}
    return sorted(finite, key=lambda step: (-finite[step] if highest else finite[step], -step))


def _content(folder: Path, item: str) -> dict[str, Any]:
    try:
        return read_json(folder / item / CONTENT)
    except OSError as error:
        if error.errno not in files.MISSING:
            raise
        raise Damaged(f"{folder}: damaged: {error}") from error
    except UserError as error:
        raise Damaged(f"{folder}: damaged: {error}") from error


def _sha256(content: dict[str, Any]) -> str:
    """Of a JSON object, however it is laid out in a file. Raises TypeError if JSON cannot hold
    it."""
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
