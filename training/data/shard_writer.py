# SPDX-License-Identifier: Apache-2.0
"""Tokenises sources into token shards, in parallel processes, and goes on where it was killed.

    DIR/plan.json                what is being made; tokens.json takes its place at the end
    DIR/SHARD.npy, SHARD.json    beside each finished shard, its part of documents.npy and of
                                 tokens.json; removed at the end
    DIR/.FILE.PID.tmp            being written; it gets its name when it is whole and on disk
    DIR/.lock                    held while a process writes here

Shard n of N holds documents n/N to (n+1)/N of the sources laid end to end, so that what is written
depends on neither the number of workers nor interruptions, and a shard that is there is never
written again. See `token_shards.py` for what is left at the end.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from checkpoints.destination import LEFT_BY_SYSTEM
from checkpoints.files import LOCK, locked, new_file
from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import Tokenizer, load_tokenizer
from training.data.documents import document_ids, load_named_tokenizer, tokenizer_fingerprint
from training.data.sources import TextSource, fingerprint, open_text_source
from training.data.sums import give_back
from training.data.token_shards import (
    INDEX,
    METADATA,
    RECORD,
    SUMS,
    UNFINISHED,
    VERSION,
    TokenShards,
    holds_tokens,
    map_array,
    read_metadata,
    shard_name,
    sum_index,
)

SHARD_BYTES = 64 * 2**20  # of source, a shard, where the caller does not say how many
MAX_SHARDS = 4096
OPTIONS = "group_size:1,zstd:1"  # one record at a time; a third smaller, and as fast to read
REPORT_BYTES = 1 << 20  # of text between reports to the progress bar


class ShardProgress(NamedTuple):
    """What has been done of the whole, this call and those before."""

    documents: int
    all_documents: int
    tokens: int
    bytes: int


def tokenise(
    specs: Sequence[str],
    tokenizer: str,
    directory: Path,
    *,
    shards: int = 0,
    workers: int = 0,
    progress: Callable[[ShardProgress], None] = lambda done: None,
) -> dict[str, Any]:
    """Write the documents of the sources as token shards; returns the content of tokens.json.

    tokenizer: `bytes`, or the path of a tokenizer. shards: 0: one for each 64 MiB of source.
    workers: processes; 0: one a core. progress: told what has been done, a few times a second.
    Raises ValueError: a source, the tokenizer or the directory do not fit; a document cannot be
    read; a worker was killed. OSError: no space left, and the like. What is finished by then stays.
    """
    _require_free(directory)
    sources = [open_text_source(spec) for spec in specs]
    if not sources:
        raise UserError("there is nothing to tokenise: name at least one source")
    loaded = load_named_tokenizer(tokenizer)
    documents = sum(map(len, sources))
    if shards == 0:
        shards = -(-sum(source.size for source in sources) // SHARD_BYTES)
        shards = min(max(shards, 1), MAX_SHARDS, documents)
    if not 1 <= shards <= min(documents, 99_999):
        raise UserError(f"{shards} shards of {documents} documents: expected 1 to {documents}")
    if workers < 0:
        raise UserError(f"{workers} workers: expected 1 or more, or 0 for one a core")
    workers = workers or os.cpu_count() or 1
    manifest = _manifest(sources, loaded, shards)
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory):
        finished = _begin(directory, manifest)
        loaded.save(directory)
        _write_missing(directory, sources, manifest, workers, progress)
        return _finish(directory, manifest, finished)


def _manifest(sources: Sequence[TextSource], tokenizer: Tokenizer, shards: int) -> dict[str, Any]:
    return {
        "version": VERSION,
        "sources": [
            {"spec": source.spec, "documents": len(source), "fingerprint": fingerprint(source)}
            for source in sources
        ],
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "dtype": "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32",
        "shard_count": shards,
    }


def _require_free(directory: Path) -> None:
    """Check, before the sources are read, that there is nothing, an empty directory, or shards."""
    if directory.is_dir():
        names = {path.name for path in directory.iterdir()} - LEFT_BY_SYSTEM - {LOCK}
        taken = bool(names) and not holds_tokens(directory)
    else:
        taken = directory.exists() or directory.is_symlink()
    if taken:
        raise UserError(f"{directory} exists and holds no token shards; choose another --out")


def _begin(directory: Path, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """Check that what was begun here is the same, and clear away what was left half written, and
    shards that were damaged since.

    Returns tokens.json, if it was finished once (a shard may have been lost since).
    """
    finished = None
    if (directory / METADATA).exists():
        finished = read_metadata(directory)
        before = finished
    elif (directory / UNFINISHED).exists():
        before = _read_json(directory / UNFINISHED)
    else:
        before = manifest
        _write_json(directory / UNFINISHED, manifest)
    there, asked = _comparable(before), _comparable(manifest)
    if changed := [f"{n}: {there.get(n)} -> {asked[n]}" for n in asked if there.get(n) != asked[n]]:
        raise UserError(
            f"{directory} holds something else (there -> asked): {'; '.join(changed)}. Ask for "
            f"what is there to go on with it, or choose another --out"
        )
    for path in directory.glob(".*.tmp"):
        path.unlink()
    for number in range(manifest["shard_count"]):
        path = directory / shard_name(number, manifest["shard_count"])
        beside = path.with_name(f"{path.name}.json")
        written = finished["shards"][number] if finished else None
        written = written or (_read_json(beside) if beside.is_file() else None)
        if written and path.is_file() and not _is(path, written):
            path.unlink()
            print(f"{path} was damaged since it was written: it is made again", file=sys.stderr)
    return finished


def _is(path: Path, written: dict[str, Any]) -> bool:
    """Whether a shard still is what was written."""
    if path.stat().st_size != written["file_bytes"]:
        return False
    return _sha256(path) == written["sha256"]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _comparable(manifest: dict[str, Any]) -> dict[str, Any]:
    """Without how the sources were written: their place may change, their documents may not."""
    contents = [(source["documents"], source["fingerprint"]) for source in manifest["sources"]]
    return {**manifest, "sources": contents}


def _write_missing(
    directory: Path,
    sources: Sequence[TextSource],
    manifest: dict[str, Any],
    workers: int,
    progress: Callable[[ShardProgress], None],
) -> None:
    count = manifest["shard_count"]
    missing = [n for n in range(count) if not (directory / shard_name(n, count)).is_file()]
    bounds = _bounds(sources, count)
    done = np.zeros(3, np.int64)  # documents, tokens, bytes
    for number in set(range(count)) - set(missing):
        done[0] += bounds[number + 1] - bounds[number]
    all_documents = bounds[-1]
    progress(ShardProgress(int(done[0]), all_documents, 0, 0))
    if not missing:
        return
    context = multiprocessing.get_context("spawn")
    reports, stop = context.Queue(), context.Event()

    def report() -> None:
        nonlocal done
        with contextlib.suppress(queue.Empty):
            while True:
                done += reports.get_nowait()
        progress(ShardProgress(int(done[0]), all_documents, int(done[1]), int(done[2])))

    pool = ProcessPoolExecutor(
        min(workers, len(missing)),
        mp_context=context,
        initializer=_start_worker,
        initargs=(directory, list(sources), manifest, reports, stop),
    )
    try:
        waiting: set[Future[None]] = {
            pool.submit(_write_shard, n, bounds[n], bounds[n + 1]) for n in missing
        }
        while waiting:
            finished, waiting = wait(waiting, timeout=0.1, return_when=FIRST_COMPLETED)
            report()
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
    report()


def _bounds(sources: Sequence[TextSource], shards: int) -> list[int]:
    documents = sum(map(len, sources))
    return [documents * n // shards for n in range(shards + 1)]


class _Worker(NamedTuple):
    """What a worker process has of its own."""

    directory: Path
    sources: list[TextSource]
    starts: list[int]
    tokenizer: Tokenizer
    manifest: dict[str, Any]
    reports: Any  # queue of counts: documents, tokens, bytes
    stop: Any  # event: leave the shard in hand


_worker: _Worker  # set by _start_worker, in worker processes only


def _start_worker(
    directory: Path, sources: list[TextSource], manifest: dict[str, Any], reports: Any, stop: Any
) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    starts = np.cumsum([0, *map(len, sources)]).tolist()
    _worker = _Worker(
        directory, sources, starts, load_tokenizer(directory), manifest, reports, stop
    )


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # killed: nobody waits for this process, and another may take up its shard


def _write_shard(number: int, start: int, stop: int) -> None:
    """Documents [start, stop) of all sources, as one shard and what belongs to it."""
    directory, sources, starts, tokenizer, manifest, reports, given_up = _worker
    name = shard_name(number, manifest["shard_count"])
    dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
    index, report = np.zeros((2, stop - start), np.int64), np.zeros(3, np.int64)
    part = 0
    with new_file(directory / name) as path:
        writer = ArrayRecordWriter(str(path), OPTIONS)
        for document in range(start, stop):
            if given_up.is_set():
                raise InterruptedError(f"{name} was not finished")
            while document >= starts[part + 1]:
                part += 1
            text = sources[part][document - starts[part]]
            ids = document_ids(tokenizer, text).astype(dtype)
            with _on_disk(directory):
                for first in range(0, len(ids), RECORD):
                    writer.write(ids[first : first + RECORD].tobytes())
            row = (len(ids), len(text.encode()))
            index[:, document - start] = row
            report += (1, *row)
            if report[2] >= REPORT_BYTES or document == stop - 1:
                reports.put(report.copy())
                report[:] = 0
        with _on_disk(directory):
            writer.close()
        digest = _sha256(path)
        ids, text_bytes = index.sum(axis=1, dtype=np.int64).tolist()
        entry = {"documents": stop - start, "tokens": ids, "bytes": text_bytes}
        entry |= {"file_bytes": path.stat().st_size, "sha256": digest}
        with new_file(directory / f"{name}.npy") as index_path, index_path.open("wb") as file:
            np.save(file, index_of(index))
        _write_json(directory / f"{name}.json", entry)


def index_of(counts: np.ndarray) -> np.ndarray:
    """The index as it is stored: in 32 bits if no document is too long for them."""
    return counts.astype(np.uint32 if counts.max(initial=0) < 1 << 32 else np.int64)


@contextlib.contextmanager
def _on_disk(directory: Path) -> Iterator[None]:
    """ArrayRecord's errors as what they are."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(
            f"{directory} cannot be written: {error}; run the same command again when it can, and "
            f"it goes on"
        ) from None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with new_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _finish(
    directory: Path, manifest: dict[str, Any], finished: dict[str, Any] | None
) -> dict[str, Any]:
    """Put the parts together, or check that what was made again is what it was."""
    names = [shard_name(n, manifest["shard_count"]) for n in range(manifest["shard_count"])]
    if finished is None:
        shards = [_read_json(directory / f"{name}.json") for name in names]
        _write_index(directory, [directory / f"{name}.npy" for name in names])
        totals = {n: sum(s[n] for s in shards) for n in ("documents", "tokens", "bytes")}
        finished = {**manifest, **totals, "shards": shards}
        _write_json(directory / METADATA, finished)
    if not (directory / SUMS).exists():
        lengths = map_array(directory / INDEX, finished["documents"])[0]
        with new_file(directory / SUMS) as path, path.open("wb") as file:
            np.save(file, sum_index(lengths))
    for name, shard in zip(names, finished["shards"], strict=True):
        entry = directory / f"{name}.json"
        if entry.exists() and _read_json(entry) != shard:
            (directory / name).unlink()
            raise UserError(
                f"{directory / name} was made again and is not what it was: its source has "
                f"changed since; tokenise into another --out"
            )
        for leftover in (entry, directory / f"{name}.npy"):
            leftover.unlink(missing_ok=True)
    (directory / UNFINISHED).unlink(missing_ok=True)
    TokenShards(directory)  # every shard is there, and whole
    return finished


def _write_index(directory: Path, files: Sequence[Path]) -> None:
    """documents.npy out of its parts, of which one at a time is in memory: what `np.save` writes of
    all of them."""
    parts = [np.load(file, mmap_mode="r") for file in files]
    dtype = max((part.dtype for part in parts), key=lambda dtype: dtype.itemsize)
    shape = (2, sum(part.shape[1] for part in parts))
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with new_file(directory / INDEX) as path, path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for row in range(2):
            for part in parts:
                file.write(part[row].astype(dtype).tobytes())
                give_back(part)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
