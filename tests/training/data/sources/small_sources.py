# SPDX-License-Identifier: Apache-2.0
"""The same documents in files of every kind."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordWriter

TEXTS = [f"document {i}: naïve café, 東京\n" * (i % 3 + 1) for i in range(23)]


def write_text(folder: Path) -> str:
    for number, text in enumerate(TEXTS):
        (folder / f"{number:02}.txt").write_text(text, "utf-8")
    return f"text:{folder}/*.txt"


def write_jsonl(folder: Path) -> str:
    for name, part in (("a", TEXTS[:10]), ("b", TEXTS[10:])):
        lines = [json.dumps({"id": 1, "body": {"text": t}}, ensure_ascii=name == "a") for t in part]
        (folder / f"{name}.jsonl").write_text("\n\n".join(lines) + "\n" * (name == "a"), "utf-8")
    return f"jsonl:{folder}/*.jsonl?field=body.text"


def write_parquet(folder: Path) -> str:
    for name, part in (("a", TEXTS[:10]), ("b", TEXTS[10:])):
        table = pa.table({"id": range(len(part)), "body": part})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=4)
    return f"parquet:{folder}/*.parquet?column=body"


def write_array_record(folder: Path) -> str:
    for name, part in (("a", TEXTS[:10]), ("b", TEXTS[10:])):
        writer = ArrayRecordWriter(str(folder / f"{name}.array_record"), "group_size:1")
        for text in part:
            writer.write(text.encode())
        writer.close()
    return f"arrayrecord:{folder}/*.array_record"
