# SPDX-License-Identifier: Apache-2.0
"""Tokenises sources into token shards, here or on a cluster, and goes on where it was killed.

    OUT/plan.json                what is being made; tokens.json takes its place at the end
    OUT/SHARD.npy, SHARD.json    beside each finished shard, its part of documents.npy and of
                                 tokens.json; removed at the end
    OUT/.FILE.*.tmp              being written; it gets its name when it is whole and on disk
    OUT/.lock                    held while a process writes here, if OUT is on a disk

Shard n of N holds documents n/N to (n+1)/N of the sources laid end to end, so that what is written
depends on neither the number of workers nor interruptions, and a shard that is there is never
written again. See `token_shards.py` for what is left at the end.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from checkpoints.destination import LEFT_BY_SYSTEM
from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import Tokenizer
from training.data.documents import load_named_tokenizer, tokenizer_fingerprint
from training.data.shard_folder import (
    DiskFolder,
    ShardFolder,
    open_folder,
    read_json,
    require_free,
    write_json,
)
from training.data.shard_tasks import Shards, comparable, write_in_processes
from training.data.sources import TextSource, fingerprint, open_text_source
from training.data.token_shards import (
    AGAIN,
    INDEX,
    METADATA,
    SUMS,
    UNFINISHED,
    VERSION,
    TokenShards,
    read_metadata,
    shard_name,
    sum_index,
)

SHARD_BYTES = 64 * 2**20  # of source, a shard, where the caller does not say how many
MAX_SHARDS = 4096


class ShardProgress(NamedTuple):
    """What has been done of the whole, this call and those before."""

    documents: int
    all_documents: int
    tokens: int
    bytes: int


def tokenise(
    specs: Sequence[str],
    tokenizer: str,
    out: str | Path,
    *,
    shards: int = 0,
    workers: int = 0,
    ray: str | None = None,
    progress: Callable[[ShardProgress], None] = lambda done: None,
) -> dict[str, Any]:
    """Write the documents of the sources as token shards; returns the content of tokens.json.

    tokenizer: `bytes`, or the path of a tokenizer. out: a folder, or a URL that fsspec writes.
    shards: 0: one for each 64 MiB of source. workers: processes; 0: one a core. ray: the address of
    a cluster, whose CPUs do it instead. progress: told what has been done, a few times a second.
    Raises ValueError: a source, the tokenizer, `out` or the cluster do not fit; a document cannot
    be read; a worker was killed. OSError: no space left, and the like. What is finished by then
    stays.
    """
    if str(out).startswith("memory:"):
        raise UserError(
            f"--out {out}: what is in memory is seen by one process, and each shard is written by "
            "one of its own; give a folder, or the URL of a store"
        )
    folder = open_folder(out)
    require_free(folder, tokens=(METADATA, UNFINISHED), left=LEFT_BY_SYSTEM)
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
    if workers and ray is not None:
        raise UserError(f"{workers} workers have no effect with Ray, which knows its CPUs")
    manifest = _manifest(sources, loaded, shards)
    folder.create()
    with folder.locked():
        finished = _begin(folder, manifest)
        whole = Shards(folder, sources, manifest, _save_tokenizer(loaded, folder))
        _write_missing(whole, workers or os.cpu_count() or 1, ray, progress)
        return _finish(whole, finished)


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


def _save_tokenizer(tokenizer: Tokenizer, folder: ShardFolder) -> dict[str, bytes]:
    """Its files, which are put into the folder."""
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save(scratch)
        files = {path.name: path.read_bytes() for path in sorted(Path(scratch).iterdir())}
    for name, content in files.items():
        with folder.new(name) as path:
            path.write_bytes(content)
    return files


def _begin(folder: ShardFolder, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """Check that what was begun here is the same, and clear away what was left half written, and
    shards that were damaged since.

    Returns tokens.json, if it was finished once (a shard may have been lost since).
    """
    finished, names = None, folder.names()
    if METADATA in names:
        finished = before = _read_metadata(folder)
    elif UNFINISHED in names:
        before = read_json(folder, UNFINISHED)
    else:
        before = manifest
        write_json(folder, UNFINISHED, manifest)
    there, asked = comparable(before), comparable(manifest)
    if changed := [name for name in asked if there.get(name) != asked[name]]:
        shown = [f"{n}: {_shown(n, before)} -> {_shown(n, manifest)}" for n in changed]
        raise UserError(
            f"{folder} holds something else (there -> asked): {'; '.join(shown)}. Ask for "
            f"what is there to go on with it, or choose another --out"
        )
    _clear_away(folder, names)
    for number in range(manifest["shard_count"]):
        name = shard_name(number, manifest["shard_count"])
        written = finished["shards"][number] if finished else None
        if written is None and f"{name}.json" in names:
            written = read_json(folder, f"{name}.json")
        if (
            written
            and name in names
            and not folder.is_same(name, written["file_bytes"], written["sha256"])
        ):
            folder.remove(name)
            print(
                f"{folder}/{name} was damaged since it was written: it is made again",
                file=sys.stderr,
            )
    return finished


def _clear_away(folder: ShardFolder, names: Iterable[str]) -> None:
    """What was left half written."""
    for name in names:
        if name.startswith(".") and name.endswith(".tmp"):
            folder.remove(name)


def _shown(name: str, manifest: Mapping[str, Any]) -> str:
    """An entry of a manifest, for a message."""
    if name != "sources":
        return str(manifest.get(name))
    return ", ".join(
        f"{source['spec']} ({source['documents']:,} documents, {source['fingerprint'][:8]})"
        for source in manifest["sources"]
    )


def _read_metadata(folder: ShardFolder) -> dict[str, Any]:
    with folder.local(METADATA) as path:
        return read_metadata(path.parent)


def _write_missing(
    shards: Shards, workers: int, ray: str | None, progress: Callable[[ShardProgress], None]
) -> None:
    bounds, names = shards.bounds, shards.folder.names()
    missing = [n for n in range(len(bounds) - 1) if shards.name(n) not in names]
    done = np.zeros(3, np.int64)  # documents, tokens, bytes
    done[0] = bounds[-1] - sum(bounds[n + 1] - bounds[n] for n in missing)

    def report(written: np.ndarray) -> None:
        done[:] += written
        progress(ShardProgress(int(done[0]), bounds[-1], int(done[1]), int(done[2])))

    report(np.zeros(3, np.int64))
    if not missing:
        return
    if ray is None:
        write_in_processes(shards, missing, workers, report)
    else:
        from training.data.ray_shards import write_on_cluster

        write_on_cluster(shards, missing, ray, report)


def _finish(shards: Shards, finished: dict[str, Any] | None) -> dict[str, Any]:
    """Put the parts together, or check that what was made again is what it was."""
    folder, manifest = shards.folder, shards.manifest
    names = [shards.name(number) for number in range(manifest["shard_count"])]
    if finished is None:
        entries = [read_json(folder, f"{name}.json") for name in names]
        _write_index(folder, [f"{name}.npy" for name in names])
        totals = {n: sum(s[n] for s in entries) for n in ("documents", "tokens", "bytes")}
        finished = {**manifest, **totals, "shards": entries}
        write_json(folder, METADATA, finished)
    here = folder.names()
    if SUMS not in here:
        if INDEX not in here:
            raise UserError(f"{folder}/{INDEX} is missing; tokenise into another --out")
        with folder.local(INDEX) as index, folder.new(SUMS) as path, path.open("wb") as file:
            np.save(file, sum_index(np.load(index, mmap_mode="r")[0]))
    for name, entry in zip(names, finished["shards"], strict=True):
        if f"{name}.json" in here and read_json(folder, f"{name}.json") != entry:
            folder.remove(name)
            raise UserError(
                f"{folder}/{name} was made again and is not what it was: its source has "
                f"changed since; tokenise into another --out"
            )
        for leftover in (f"{name}.json", f"{name}.npy"):
            if leftover in here:
                folder.remove(leftover)
        if name not in here:
            raise UserError(f"{folder}/{name}: this shard is missing; {AGAIN}")
    folder.remove(UNFINISHED)
    _clear_away(folder, here)  # of a machine that was lost meanwhile
    if isinstance(folder, DiskFolder):
        TokenShards(folder.path)  # every shard is there, and whole
    return finished


def _write_index(folder: ShardFolder, names: Sequence[str]) -> None:
    """documents.npy out of its parts, of which one at a time is in memory: what `np.save` writes of
    all of them."""
    kinds = []
    for name in names:
        with folder.local(name) as file:
            part = np.load(file, mmap_mode="r")
            kinds.append((part.dtype, part.shape[1]))
    dtype = max((dtype for dtype, _ in kinds), key=lambda dtype: dtype.itemsize)
    documents = sum(count for _, count in kinds)
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (2, documents),
    }
    with folder.new(INDEX) as path, path.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        begin, first = out.tell(), 0
        for name in names:
            with folder.local(name) as file:
                part = np.load(file).astype(dtype)
            for row in range(2):
                out.seek(begin + dtype.itemsize * (row * documents + first))
                out.write(part[row].tobytes())
            first += part.shape[1]
