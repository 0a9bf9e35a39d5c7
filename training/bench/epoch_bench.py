# SPDX-License-Identifier: Apache-2.0
"""What an epoch costs of millions and billions of documents.

    python -m training.bench.epoch_bench     3 minutes, 10 GB of disk; numbers in docs/data.md

Folders of token shards are written whose lengths are drawn at random and whose ids are not there
(the shards are holes of the file system). A fresh process opens a folder, makes the first batch and
then batches for some seconds; reading a document gives zeros, after its record has been looked up.
Twenty billion documents are the lengths of a billion read twenty times over, with sums of their
own.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from kernels.measure.command import options
from recurrentgemma.text.tokenizer import ByteTokenizer, tokenizer_fingerprint
from training.data.batches import Batches
from training.data.document import Document
from training.data.documents import InMemory, Mixture
from training.data.packing import PackedBatches
from training.data.prefetch import Prefetched
from training.data.sums import BLOCK, PART, give_back
from training.data.token_shards import (
    INDEX,
    METADATA,
    SUMS,
    VERSION,
    TokenShards,
    records_of,
    shard_name,
    sum_index,
)

BATCH, TOKENS = 64, 2048
LONGEST = 2000  # ids; lengths are uniform from 1
SHARDS = 64
REPEATS = 20


class NoIds(TokenShards):
    """Token shards whose ids are zeros."""

    def read(self, document: int, start: int = 0, stop: int | None = None) -> Document:
        length, _ = self.place(document)
        return Document(np.zeros(min(stop or LONGEST, length) - start, np.int32))


class Repeated(InMemory):
    """The documents of a folder, REPEATS times over."""

    def __init__(self, folder: Path) -> None:
        self._shards = NoIds(folder)
        whole_blocks = len(self._shards) // BLOCK * BLOCK
        self.lengths = RepeatedLengths(self._shards.lengths[:whole_blocks])  # type: ignore[assignment]
        self.fingerprint = "repeated"
        self._sums = np.load(folder / "repeated.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def pair_sums(self) -> np.ndarray | None:
        return self._sums

    def read(self, document: int, start: int = 0, stop: int | None = None) -> Document:
        return self._shards.read(document % (len(self) // REPEATS), start, stop)


class RepeatedLengths:
    """As an array, where an epoch asks one of documents of known numbers."""

    def __init__(self, lengths: np.ndarray) -> None:
        self._lengths = lengths

    def __len__(self) -> int:
        return REPEATS * len(self._lengths)

    def __getitem__(self, documents: np.ndarray) -> np.ndarray:
        lengths = self._lengths[documents % len(self._lengths)]
        give_back(self._lengths)  # an epoch gives back what is a map itself
        return lengths


def write_folder(folder: Path, documents: int) -> None:
    """Token shards of so many documents, whose ids are not there."""
    folder.mkdir()
    random = np.random.default_rng(0)
    with (folder / INDEX).open("wb") as file:
        header = {"descr": "<u4", "fortran_order": False, "shape": (2, documents)}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, documents, PART):
            count = min(PART, documents - first)
            file.write(random.integers(1, LONGEST, count, np.uint32).tobytes())
        file.truncate(file.tell() + 4 * documents)  # bytes of text: none
    lengths = np.load(folder / INDEX, mmap_mode="r")[0]
    sums = sum_index(lengths)
    np.save(folder / SUMS, sums)
    blocks = sums[0, : documents // BLOCK + 1]  # of whole blocks, to be repeated
    pairs = np.concatenate([blocks[:-1] + n * blocks[-1] for n in range(REPEATS)])
    np.save(folder / "repeated.npy", np.append(pairs, REPEATS * blocks[-1]))
    bounds = [documents * n // SHARDS for n in range(SHARDS + 1)]
    shards = []
    for number in range(SHARDS):
        size = int(records_of(lengths[bounds[number] : bounds[number + 1]]).sum())
        with (folder / shard_name(number, SHARDS)).open("wb") as file:
            file.truncate(size)
        entry: dict[str, Any] = {"documents": bounds[number + 1] - bounds[number], "bytes": 0}
        entry |= {"tokens": 0, "file_bytes": size, "sha256": hashlib.sha256(b"").hexdigest()}
        shards.append(entry)
    tokenizer = ByteTokenizer()
    metadata = {"version": VERSION, "documents": documents, "shards": shards, "dtype": "uint16"}
    metadata |= {"vocab_size": 512, "eos_id": None, "tokenizer": tokenizer_fingerprint(tokenizer)}
    (folder / METADATA).write_text(json.dumps(metadata))


def measure(folder: Path, *, repeated: bool, whole: bool, seconds: float, rows: range) -> None:
    """Print, as JSON, what one process finds. whole: in the order of before there were windows."""
    before = _memory("VmRSS")
    start = time.perf_counter()
    documents: Any = Repeated(folder) if repeated else NoIds(folder)
    parts = {"batch_size": BATCH, "row_length": TOKENS, "seed": 0, "rows": rows}
    if whole:
        batches: Any = PackedBatches(Mixture((documents,), (1.0,)), **parts)
        batches.order_by(None)
        batches = Prefetched(batches, 1)
    else:
        batches = Batches(Mixture((documents,), (1.0,)), **parts, prefetch=1)
    next(batches)
    began = time.perf_counter() - start
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += 1
    rate = count * len(rows) / (time.perf_counter() - start)
    facts = {"documents": len(documents), "seconds": began, "rows_per_second": rate}
    facts |= {"resident_before": before}
    print(json.dumps(facts | {"peak": _memory("VmHWM")}))
    batches.close()


def _memory(name: str) -> int:
    """Bytes of memory of this process, with what it shares: VmRSS now, VmHWM at most. (Of a process
    that was started by another, getrusage's peak may be the other's.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def in_processes(folder: Path, count: int, *flags: str) -> list[dict[str, Any]]:
    """What so many processes find, each at its own rows of every batch."""
    command = [sys.executable, "-m", "training.bench.epoch_bench", "--measure", str(folder), *flags]
    processes = [
        subprocess.Popen(
            [*command, "--rows", str(BATCH * n // count), str(BATCH * (n + 1) // count)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(count)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert not any(process.returncode for process in processes)
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def show(name: str, processes: list[dict[str, Any]]) -> None:
    first = processes[0]
    grown = max(p["peak"] - p["resident_before"] for p in processes)
    peak = max(p["peak"] for p in processes)
    rate = sum(p["rows_per_second"] for p in processes)
    print(
        f"| {first['documents']:,} | {name} | {first['seconds']:.2f} s | {grown / 1e6:,.0f} MB | "
        f"{peak / 1e6:,.0f} MB | {rate:,.0f} |",
        flush=True,
    )


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--documents", type=int, nargs="+", default=[10**7, 10**8, 10**9])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--whole", type=int, default=10**8, help="the most, in the order of before")
    parser.add_argument("--scratch", type=Path, help="where the folders go and are removed from")
    parser.add_argument("--measure", type=Path, help="a folder, in this process")
    parser.add_argument("--rows", type=int, nargs=2, default=(0, BATCH))
    parser.add_argument("--in-old-order", action="store_true")
    parser.add_argument("--repeated", action="store_true")
    arguments = parser.parse_args()
    if arguments.measure is not None:
        measure(
            arguments.measure,
            repeated=arguments.repeated,
            whole=arguments.in_old_order,
            seconds=arguments.seconds,
            rows=range(*arguments.rows),
        )
        return
    print("| documents | | to the first batch | memory, grown | of the process | rows/s |")
    print("|---|---|---|---|---|---|")
    seconds = ["--seconds", str(arguments.seconds)]
    for documents in arguments.documents:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
            folder = Path(scratch) / "tokens"
            write_folder(folder, documents)
            show("1 process", in_processes(folder, 1, *seconds))
            show("2 processes, each", in_processes(folder, 2, *seconds))
            if documents <= arguments.whole:
                show("in the old order", in_processes(folder, 1, *seconds, "--in-old-order"))
            if documents == max(arguments.documents):
                show(f"{REPEATS} times over", in_processes(folder, 1, *seconds, "--repeated"))
            (folder / SUMS).unlink()
            show("without sums", in_processes(folder, 1, *seconds))


if __name__ == "__main__":
    main()
