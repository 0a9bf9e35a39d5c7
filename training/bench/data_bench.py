# SPDX-License-Identifier: Apache-2.0
"""How fast batches are made from each kind of source.

    python -m training.bench.data_bench TEXT...     2 minutes; numbers in docs/data.md

The texts are cut into documents of some thousand characters, written as each kind of source, and
tokenised by a SentencePiece tokenizer of 2,048 pieces trained on a part of them. Then what grows
with the data: ordering millions of documents, finding lines, groups of Parquet read in order.
"""

import json
import os
import random
import re
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from kernels.measure.command import options
from recurrentgemma.text.tokenizer import Tokenizer, train_sentencepiece
from training.data.batches import Batches
from training.data.config import DataConfig, open_mixture
from training.data.document import Document
from training.data.documents import InMemory, Mixture
from training.data.order import BlockShuffle, make_shuffle
from training.data.shard_tasks import OPTIONS
from training.data.shard_writer import tokenise
from training.data.sources import open_text_source, parquet

BATCH, TOKENS = 8, 2048
SECONDS = 5.0  # of batches for each source
CHARACTERS = 3000  # a document, then to the end of the paragraph
TRAINING_CHARACTERS = 2_000_000
MANY = 10_000_000  # documents to order
GROUPS, GROUP_ROWS, ROW = 106, 1000, 4000  # of a Parquet file, in bytes
KEPT = 64 * 2**20  # bytes of it that stay decoded


def cut(text: str) -> Iterator[str]:
    """Documents of whole paragraphs."""
    document = ""
    for paragraph in re.split(r"(?<=\n)\s*\n", text):
        document += paragraph + "\n"
        if len(document) > CHARACTERS:
            yield document
            document = ""
    if document:
        yield document


def write_sources(documents: list[str], folder: Path) -> dict[str, str]:
    """The documents as each kind of source that needs no more than a file; name -> spec."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from array_record.python.array_record_module import ArrayRecordWriter

    (folder / "text").mkdir()
    for number, document in enumerate(documents):
        (folder / "text" / f"{number:06}.txt").write_text(document, encoding="utf-8")
    with (folder / "web.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": document}) + "\n" for document in documents)
    pq.write_table(pa.table({"text": documents}), folder / "web.parquet", row_group_size=1000)
    writer = ArrayRecordWriter(str(folder / "web.array_record"), OPTIONS)
    for document in documents:
        writer.write(document.encode())
    writer.close()
    _write_tfds(documents, folder)
    return {
        "text": f"text:{folder}/text/*.txt",
        "jsonl": f"jsonl:{folder}/web.jsonl",
        "parquet": f"parquet:{folder}/web.parquet",
        "arrayrecord": f"arrayrecord:{folder}/web.array_record",
        "tfds": f"tfds:bench_web?data_dir={folder}",
    }


def _write_tfds(documents: list[str], folder: Path) -> None:
    import tensorflow_datasets as tfds

    class BenchWeb(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate({"text": document} for document in documents)

    tfds.disable_progress_bar()
    BenchWeb(data_dir=folder, file_format="array_record").download_and_prepare()


def rates(
    spec: str, tokenizer: Tokenizer, long_documents: str, threads: int
) -> tuple[float, float]:
    """Tokens a second, and tokens a second of processor time, which other work disturbs less."""
    config = DataConfig(sources=(spec,), long_documents=long_documents)  # type: ignore[arg-type]
    mixture = open_mixture(config, tokenizer, vocab_size=tokenizer.vocab_size)
    batches = Batches(
        mixture,
        batch_size=BATCH,
        row_length=TOKENS,
        seed=0,
        long_documents=config.long_documents,
        threads=threads,
    )
    next(batches)
    start, processor, batch_count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < SECONDS:
        next(batches)
        batch_count += 1
    tokens = batch_count * BATCH * TOKENS
    return (
        tokens / (time.perf_counter() - start),
        tokens / (time.process_time() - processor),
    )


class Lengths(InMemory):
    """Documents that are not there: only how long they are."""

    def __init__(self, lengths: np.ndarray) -> None:
        self.lengths, self.fingerprint = lengths, "lengths"

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, document: int, start: int = 0, stop: int | None = None) -> Document:
        return Document(np.zeros(min(stop or MANY, self.lengths[document]) - start, np.int32))


def time_an_epoch() -> tuple[float, float, float]:
    """Seconds and bytes of beginning an epoch of many documents; seconds of a row out of them."""
    lengths = np.random.default_rng(0).integers(1, 2000, MANY).astype(np.uint32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    mixture = Mixture((Lengths(lengths),), (1.0,))
    batches = Batches(mixture, batch_size=BATCH, row_length=TOKENS, seed=0, threads=1, prefetch=1)
    next(batches)
    began, count = time.perf_counter(), 500
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    for _ in range(count):
        next(batches)
    return began - start, grown, (time.perf_counter() - began) / (count * BATCH)


def time_parquet(folder: Path) -> tuple[float, float]:
    """Seconds to read a document in our order, and in a full shuffle."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    letters = random.Random(0)
    path = folder / "groups.parquet"
    with pq.ParquetWriter(path, pa.schema({"text": pa.string()})) as writer:
        for _ in range(GROUPS):
            rows = [letters.randbytes(ROW // 2).hex() for _ in range(GROUP_ROWS)]
            writer.write_table(pa.table({"text": rows}), row_group_size=GROUP_ROWS)
    parquet.KEPT_BYTES = KEPT

    def seconds(count: int, order: Callable[[int], int]) -> float:
        source = open_text_source(spec)  # which has nothing decoded yet
        start = time.perf_counter()
        for place in range(count):
            source[order(place)]
        return (time.perf_counter() - start) / count

    spec = f"parquet:{path}"
    blocks, rows = np.arange(0, GROUPS * GROUP_ROWS, GROUP_ROWS), GROUPS * GROUP_ROWS
    return seconds(20_000, BlockShuffle(blocks, rows, 0)), seconds(200, make_shuffle(rows, 0))


def print_what_grows(folder: Path, lines: str) -> None:
    seconds, grown, row = time_an_epoch()
    start = time.perf_counter()
    source = open_text_source(lines)
    rate = source.size / (time.perf_counter() - start)
    ours, full = time_parquet(folder)
    print("| | |\n|---|---|")
    print(
        f"| beginning an epoch of {MANY:,} documents (rows) | {seconds:.1f} s, {grown:,.0f} bytes |"
    )
    print(f"| one row of {TOKENS:,} tokens out of those | {1e3 * row:.2f} ms |")
    print(f"| finding the lines of JSONL | {rate / 1e9:.2f} GB/s |")
    print(
        f"| a document out of Parquet, {GROUPS} groups of {GROUP_ROWS:,} rows of {ROW:,} bytes, "
        f"{KEPT // 2**20} MiB of groups kept | {1e3 * ours:.2f} ms in our order, "
        f"{1e3 * full:.1f} ms in a full shuffle |"
    )


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("text", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    documents = [d for path in arguments.text for d in cut(path.read_text(encoding="utf-8"))]
    characters = sum(map(len, documents))
    part = documents[:: max(characters // TRAINING_CHARACTERS, 1)]
    tokenizer = train_sentencepiece(part, 2048)
    print(f"{len(documents):,} documents, {characters:,} characters, batches of {BATCH} x {TOKENS}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tokenizer.save(folder)
        specs = write_sources(documents, folder)
        start = time.perf_counter()
        metadata = tokenise([specs["jsonl"]], scratch, folder / "tokens", workers=arguments.threads)
        seconds = time.perf_counter() - start
        print(
            f"tokenised ahead: {metadata['tokens'] / seconds:,.0f} tokens/s, {seconds:.1f} s in all"
        )
        specs["token shards"] = f"arrayrecord:{folder}/tokens"
        print("| source | cut, tokens/s | per CPU second | carry, tokens/s | per CPU second |")
        print("|---|---|---|---|---|")
        for name, spec in specs.items():
            speeds = [
                f"{rate:,.0f}"
                for mode in ("cut", "carry")
                for rate in rates(spec, tokenizer, mode, arguments.threads)
            ]
            print(f"| {name} | {' | '.join(speeds)} |", flush=True)
        print_what_grows(folder, specs["jsonl"])


if __name__ == "__main__":
    main()
