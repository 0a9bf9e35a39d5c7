# SPDX-License-Identifier: Apache-2.0
"""Token shards to be written: what is to be done, one shard of it, and many in the processes of one
machine. `ray_shards.py` does the same on a cluster.

A shard gets its name when it is whole and on disk, after what belongs to it:

    FOLDER/SHARD.npy, SHARD.json    its part of documents.npy and of tokens.json
    FOLDER/SHARD                    so a shard that is there is never written again
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import Tokenizer, load_tokenizer
from training.data.documents import document_ids
from training.data.shard_folder import ShardFolder, sha256_of, write_json
from training.data.sources import TextSource
from training.data.token_shards import RECORD, shard_name

OPTIONS = "group_size:1,zstd:1"  # one record at a time; a third smaller, and as fast to read
REPORT_BYTES = 1 << 20  # of text between reports to the progress bar

Report = Callable[[np.ndarray], None]  # what was written since the last: documents, tokens, bytes


class Shards(NamedTuple):
    """What all shards of a folder are made from: what a process gets before its first one.

    manifest: the content of plan.json. tokenizer: its files, by name.
    """

    folder: ShardFolder
    sources: Sequence[TextSource]
    manifest: dict[str, Any]
    tokenizer: dict[str, bytes]

    @property
    def bounds(self) -> list[int]:
        """The first document of each shard, and how many there are."""
        documents, count = sum(map(len, self.sources)), self.manifest["shard_count"]
        return [documents * n // count for n in range(count + 1)]

    def name(self, number: int) -> str:
        return shard_name(number, self.manifest["shard_count"])

    def load_tokenizer(self) -> Tokenizer:
        with tempfile.TemporaryDirectory() as scratch:
            for name, content in self.tokenizer.items():
                (Path(scratch) / name).write_bytes(content)
            return load_tokenizer(scratch)


def comparable(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Without how the sources were written: their place may change, their documents may not."""
    contents = [(source["documents"], source["fingerprint"]) for source in manifest["sources"]]
    return {**manifest, "sources": contents}


def write_shard(
    shards: Shards,
    tokenizer: Tokenizer,
    number: int,
    *,
    report: Report,
    given_up: Callable[[], bool] = lambda: False,
) -> None:
    """Write a shard and what belongs to it.

    Raises ValueError: a document cannot be read. OSError: no space left, and the like.
    InterruptedError: `given_up` has become true.
    """
    folder, sources, manifest, _ = shards
    starts = np.cumsum([0, *map(len, sources)]).tolist()
    start, stop = shards.bounds[number : number + 2]
    name = shards.name(number)
    dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
    index, done = np.zeros((2, stop - start), np.int64), np.zeros(3, np.int64)
    part = 0
    with folder.new(name) as path:
        writer = ArrayRecordWriter(str(path), OPTIONS)
        for document in range(start, stop):
            if given_up():
                raise InterruptedError(f"{name} was not finished")
            while document >= starts[part + 1]:
                part += 1
            text = sources[part][document - starts[part]]
            ids = document_ids(tokenizer, text).astype(dtype)
            with _on_disk(folder):
                for first in range(0, len(ids), RECORD):
                    writer.write(ids[first : first + RECORD].tobytes())
            row = (len(ids), len(text.encode()))
            index[:, document - start] = row
            done += (1, *row)
            if done[2] >= REPORT_BYTES or document == stop - 1:
                report(done.copy())
                done[:] = 0
        with _on_disk(folder):
            writer.close()
        ids, text_bytes = index.sum(axis=1, dtype=np.int64).tolist()
        entry = {"documents": stop - start, "tokens": ids, "bytes": text_bytes}
        entry |= {"file_bytes": path.stat().st_size, "sha256": sha256_of(path)}
        with folder.new(f"{name}.npy") as index_path, index_path.open("wb") as file:
            np.save(file, index_of(index))
        write_json(folder, f"{name}.json", entry)


def index_of(counts: np.ndarray) -> np.ndarray:
    """The index as it is stored: in 32 bits if no document is too long for them."""
    return counts.astype(np.uint32 if counts.max(initial=0) < 1 << 32 else np.int64)


@contextlib.contextmanager
def _on_disk(folder: ShardFolder) -> Iterator[None]:
    """ArrayRecord's errors as what they are."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(
            f"{folder} cannot be written: {error}; run the same command again when it can, and "
            f"it goes on"
        ) from None


def write_in_processes(
    shards: Shards, missing: Sequence[int], workers: int, report: Report
) -> None:
    """Write these shards in so many processes of this machine. report: called in this one, now and
    then. Raises as write_shard; UserError: a worker was killed."""
    context = multiprocessing.get_context("spawn")
    reports, stop = context.Queue(), context.Event()

    def pass_on() -> None:
        written = np.zeros(3, np.int64)
        with contextlib.suppress(queue.Empty):
            while True:
                written += reports.get_nowait()
        report(written)

    pool = ProcessPoolExecutor(
        min(workers, len(missing)),
        mp_context=context,
        initializer=_start_worker,
        initargs=(shards, reports, stop),
    )
    try:
        waiting: set[Future[None]] = {pool.submit(_work, number) for number in missing}
        while waiting:
            finished, waiting = wait(waiting, timeout=0.1, return_when=FIRST_COMPLETED)
            pass_on()
            for future in finished:
                future.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker was killed, perhaps for want of memory; run the same command again to go "
            "on, with fewer --workers if it was memory"
        ) from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    pass_on()


class _Worker(NamedTuple):
    """What a worker process has of its own."""

    shards: Shards
    tokenizer: Tokenizer
    reports: Any  # queue of counts
    stop: Any  # event: leave the shard in hand


_worker: _Worker  # set by _start_worker, in worker processes only


def _start_worker(shards: Shards, reports: Any, stop: Any) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = _Worker(shards, shards.load_tokenizer(), reports, stop)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # killed: nobody waits for this process, and another may take up its shard


def _work(number: int) -> None:
    shards, tokenizer, reports, stop = _worker
    write_shard(shards, tokenizer, number, report=reports.put, given_up=stop.is_set)
