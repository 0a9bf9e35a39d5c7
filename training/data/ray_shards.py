# SPDX-License-Identifier: Apache-2.0
"""Token shards written by the machines of a Ray cluster, a task a shard.

A shard is written under another name and gets its own when it is whole, and what it holds follows
from its number: a task may run twice, and a machine may be lost in the middle of one. What each
machine must see is the sources and the folder, which each task makes sure of by the plan in it.
"""

import contextlib
import os
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from checkpoints.ray_cluster import Task, joined, results_of
from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import Tokenizer
from training.data.shard_folder import read_json
from training.data.shard_tasks import Report, Shards, comparable, write_shard
from training.data.token_shards import METADATA, UNFINISHED


def write_on_cluster(shards: Shards, missing: Sequence[int], address: str, report: Report) -> None:
    """Write these shards on the CPUs of a cluster. report: told of each that is there. Raises
    UserError: see `checkpoints.ray_cluster`, and write_shard."""
    with joined(address) as ray:
        tasks = [Task(number, (number, os.getcwd())) for number in missing]
        for _, written in results_of(ray, write_one, shards, tasks, by_xla=False):
            report(written)


def write_one(shards: Shards, number: int, directory: str) -> np.ndarray:
    """One shard, by a machine of the cluster: documents, tokens and bytes. directory: from which
    paths are relative, if it is there."""
    written = np.zeros(3, np.int64)
    with contextlib.suppress(OSError):
        os.chdir(directory)

    def add(counts: np.ndarray) -> None:
        written[:] += counts

    _check_sees(shards)
    write_shard(shards, _tokenizer(tuple(shards.tokenizer.items())), number, report=add)
    return written


@lru_cache(maxsize=1)
def _tokenizer(files: tuple[tuple[str, bytes], ...]) -> Tokenizer:
    return Shards(None, (), {}, dict(files)).load_tokenizer()  # type: ignore[arg-type]


def _check_sees(shards: Shards) -> None:
    """Raises UserError: this machine does not see the folder."""
    asked = comparable(shards.manifest)
    for name in (UNFINISHED, METADATA):
        with contextlib.suppress(OSError, ValueError):
            if asked.items() <= comparable(read_json(shards.folder, name)).items():
                return
    raise UserError(
        f"it does not see the folder {shards.folder} where the shards are to be written: --out, "
        f"and the sources, must be on storage that every machine shares"
    )
