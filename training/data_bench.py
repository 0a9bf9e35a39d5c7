# SPDX-License-Identifier: Apache-2.0
"""How fast batches are made from each kind of source.

    python -m training.data_bench TEXT...     1 minute; numbers in docs/data.md

The texts are cut into documents of some thousand characters, written as each kind of source, and
tokenised by a SentencePiece tokenizer of 2,048 pieces trained on a part of them.
"""

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from recurrentgemma.tokenizer import Tokenizer, train_sentencepiece
from training.data import Batches
from training.data_config import DataConfig, open_mixture
from training.shard_writer import OPTIONS, tokenise

BATCH, TOKENS = 8, 2048
SECONDS = 5.0  # of batches for each source
CHARACTERS = 3000  # a document, then to the end of the paragraph
TRAINING_CHARACTERS = 2_000_000


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
    start, processor, made = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < SECONDS:
        next(batches)
        made += 1
    tokens = made * BATCH * TOKENS
    return (
        tokens / (time.perf_counter() - start),
        tokens / (time.process_time() - processor),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.data_bench")
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
        made = tokenise([specs["jsonl"]], scratch, folder / "tokens", workers=arguments.threads)
        seconds = time.perf_counter() - start
        print(f"tokenised ahead: {made['tokens'] / seconds:,.0f} tokens/s, {seconds:.1f} s in all")
        specs["token shards"] = f"arrayrecord:{folder}/tokens"
        print("| source | cut, tokens/s | per CPU second | carry, tokens/s | per CPU second |")
        print("|---|---|---|---|---|")
        for name, spec in specs.items():
            found = [
                f"{rate:,.0f}"
                for mode in ("cut", "carry")
                for rate in rates(spec, tokenizer, mode, arguments.threads)
            ]
            print(f"| {name} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
