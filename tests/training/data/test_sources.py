# SPDX-License-Identifier: Apache-2.0
"""Every kind of source gives its documents by number, and says clearly what is wrong with it."""

import gzip
import json
import pickle
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import assume, given
from hypothesis import strategies as st

from training.data.sources import fingerprint, open_source, open_text
from training.data.sources import parquet as parquet_module
from training.data.sources.json_lines import _find_lines
from training.data.sources.spec import parse_spec

TEXTS = [f"document {i}: naïve café, 東京\n" * (i % 3 + 1) for i in range(23)]


class Songs(tfds.core.GeneratorBasedBuilder):
    """The documents as a TensorFlow Dataset, made by TFDS itself."""

    __module__ = (
        "songs"  # of a module in a package TFDS wants the path, through importlib_resources
    )
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = tuple(tfds.core.BuilderConfig(name=name) for name in ("loud", "soft"))

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"text": tfds.features.Text(), "number": np.int64}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        parts = {"train": TEXTS[:20], "test": TEXTS[20:]}
        return {name: self._generate_examples(texts) for name, texts in parts.items()}

    def _generate_examples(self, texts):
        for number, text in enumerate(texts):
            shown = text.upper() if self.builder_config == self.BUILDER_CONFIGS[0] else text
            yield number, {"text": shown, "number": number}


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


WRITERS = [write_text, write_jsonl, write_parquet, write_array_record]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir of TFDS that holds `songs/soft` and `songs/loud`."""
    data_dir = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    for name in ("soft", "loud"):
        Songs(data_dir=data_dir, config=name, file_format="array_record").download_and_prepare()
    return data_dir


@pytest.mark.parametrize("write", WRITERS)
def test_each_kind_gives_its_documents_in_any_order(
    write: Callable[[Path], str], tmp_path: Path
) -> None:
    source = open_text(write(tmp_path))
    assert len(source) == len(TEXTS)
    assert [source[i] for i in reversed(range(len(TEXTS)))] == TEXTS[::-1]
    assert source.size > 0
    copy = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(copy.__getitem__, range(len(TEXTS)))) == TEXTS
    assert fingerprint(copy) == fingerprint(open_text(source.spec))


@pytest.mark.parametrize("write", WRITERS)
def test_a_changed_document_changes_the_fingerprint(
    write: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(open_text(write(tmp_path)))
    monkeypatch.setitem(globals(), "TEXTS", [*TEXTS[:-1], TEXTS[-1].replace("naïve", "nåïve")])
    assert fingerprint(open_text(write(tmp_path))) != before


def test_a_tensorflow_dataset_is_read_by_name(prepared: Path) -> None:
    loud = open_text(f"tfds:songs/loud:train?data_dir={prepared}")
    assert sorted(loud[i] for i in range(len(loud))) == sorted(t.upper() for t in TEXTS[:20])
    half = open_text(f"tfds:songs/soft:1.0.0:train[:50%]?data_dir={prepared}&feature=text")
    whole = open_text(f"tfds:songs/soft?data_dir={prepared}")  # the split is train
    assert [half[i] for i in range(len(half))] == [whole[i] for i in range(10)]
    copy = pickle.loads(pickle.dumps(whole))
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(copy.__getitem__, range(20))) == set(TEXTS[:20])
    assert whole.name(3) == "songs/soft/1.0.0:train, example 3"


def test_a_tensorflow_dataset_that_cannot_be_read_says_why(prepared: Path, tmp_path: Path) -> None:
    def error(spec: str) -> str:
        with pytest.raises(ValueError, match=r".") as caught:
            open_text(spec)
        return str(caught.value)

    there = f"?data_dir={prepared}"
    assert "no dataset 'sonsg'; did you mean songs" in error(f"tfds:sonsg{there}")
    assert "ag_news_subset" in error("tfds:ag_news_subsett")
    assert "no folder /nowhere" in error("tfds:songs?data_dir=/nowhere")
    message = error(f"tfds:songs/soft:tran{there}")
    assert "did you mean 'train'? the splits are train, test" in message
    assert "no examples" in error(f"tfds:songs/soft:train[:0]{there}")
    assert "100, 100" in error(f"tfds:songs/soft:train[:200%]{there}")
    assert "no feature 'txt'; they have 'text', 'number'" in error(
        f"tfds:songs/soft:train{there}&feature=txt"
    )
    assert "songs/lowd" in error(f"tfds:songs/lowd{there}")
    call = "tfds.builder('songs/soft', file_format='array_record', data_dir='"
    assert call in error(f"tfds:songs/soft?data_dir={tmp_path}")
    # As TFDS prepares it without being told: files that cannot be read at random.
    shutil.copytree(prepared, tmp_path / "other")
    folder = tmp_path / "other" / "songs" / "soft" / "1.0.0"
    content = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(content | {"fileFormat": "tfrecord"}))
    message = error(f"tfds:songs/soft?data_dir={tmp_path / 'other'}")
    assert "is prepared as tfrecord" in message
    assert call in message
    number = open_text(f"tfds:songs/soft{there}&feature=number")
    with pytest.raises(ValueError, match="number is a int, expected text"):
        number[0]


def test_a_lost_shard_of_a_tensorflow_dataset_is_named(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "lost")
    [shard] = (tmp_path / "lost" / "songs" / "soft" / "1.0.0").glob("*train*")
    shard.unlink()
    source = open_text(f"tfds:songs/soft?data_dir={tmp_path / 'lost'}")
    with pytest.raises(ValueError, match=f"example 0 cannot be read.*{shard.name}"):
        source[0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("jsnl:a", r"unknown kind 'jsnl'; did you mean 'jsonl'\? The kinds are text:GLOB; "),
        ("csv:a", "unknown kind 'csv'; the kinds are text:GLOB; jsonl:GLOB"),
        ("books", "'books' names no kind of source; write text:books, or one of"),
        ("jsonl:", r"'jsonl:' names no files; write jsonl:GLOB"),
        ("a/b.parquet", "write parquet:a/b.parquet"),
        ("text:none/*.txt", r"no file matches 'none/\*.txt' \(looked from "),
        ("jsonl:a?column=text", r"'column=text' is no option of jsonl; write jsonl:GLOB\[\?field="),
        ("text:a?field=text", "no option of text"),
        ("jsonl:a?field=", "'field=' is no option"),
        ("tfds:a b", "expected tfds:NAME"),
    ],
)
def test_a_spec_that_means_nothing(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_source(spec)


def test_a_question_mark_in_a_pattern_stays_a_wildcard(tmp_path: Path) -> None:
    for name in ("a1.txt", "a2.txt", "b1.txt", "a[1].txt"):
        (tmp_path / name).write_text(name)
    assert len(open_source(f"text:{tmp_path}/a?.txt")) == 2
    assert open_text(f"text:{tmp_path}/a[1].txt")[0] == "a[1].txt"  # a file of that very name
    spec = parse_spec("jsonl:a?.jsonl?field=x")
    assert (spec.where, dict(spec.options)) == ("a?.jsonl", {"field": "x"})


def test_a_folder_is_told_how_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder; name its files: jsonl:.*/\*\*/\*\.jsonl"):
        open_source(f"jsonl:{tmp_path}")
    (tmp_path / "tokens.json").write_text("{}")
    with pytest.raises(ValueError, match=f"names no kind of source; write arrayrecord:{tmp_path}"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_text_that_is_not_utf8(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'{"text": "caf\xe9"}\n')
    source = open_text(f"{kind}:{tmp_path}/a")
    with pytest.raises(ValueError, match=r"a(:1)? is not UTF-8: byte 0xe9 at offset 13; .*iconv"):
        source[0]


def test_windows_text_is_plain_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("\ufeffOne\r\nTwo\r\n".encode())
    assert open_text(f"text:{tmp_path}/a")[0] == "One\nTwo\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"body": "a", "id": 3}', r":3 has no field 'text'; it has 'body', 'id'; .*\?field=NAME"),
        ("{}", ":3 has no field 'text'; it has none"),
        ("[1, 2]", ":3: expected a JSON object, found a list"),
        ('{"text": 4}', ":3: text is a int, expected a string"),
        ('{"text": "a', ":3 is not JSON: "),
        ("{", ":3 is not JSON: "),
        ("[" * 100_000, ":3 holds JSON nested too deeply to be read"),
        ('{"a":' * 100_000, ":3 holds JSON nested too deeply to be read"),
        (r'{"text": "\ud800"}', r":3: text holds '\\ud800', half of a surrogate pair"),
    ],
)
def test_a_line_that_is_no_document_is_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(f'{{"text": "fine"}}\n\n{line}\n')
    source = open_text(f"jsonl:{tmp_path}/a")
    assert source[0] == "fine"
    with pytest.raises(ValueError, match=f"a{message}"):
        source[1]


@given(st.lists(st.binary(max_size=5).map(lambda b: b.replace(b"\n", b"")), max_size=12))
def test_lines_are_found_wherever_chunks_end(lines: list[bytes]) -> None:
    assume(not b"".join(lines[:2]).startswith((b"BZ", b"\x1f\x8b")))
    with tempfile.NamedTemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.data.sources.json_lines._CHUNK", 3)
        content = b"\n".join(lines)
        file.write(content)
        file.flush()
        found = [content[start:end] for start, end in _find_lines(file.name).T]
    assert found == [line for line in lines if line.decode("utf-8", "replace").strip()]


def test_lines_of_white_space_are_no_documents(tmp_path: Path) -> None:
    content = '\ufeff  \n{"text": "one"}\n   \n\t \r\n\u3000\u00a0\n \n  {"text": "two"}\n    '
    (tmp_path / "a.jsonl").write_text(content, "utf-8")
    found = open_text(f"jsonl:{tmp_path}/a.jsonl")
    assert [found[n] for n in range(len(found))] == ["one", "two"]
    assert found.name(1).endswith(":7")


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\n{"text": "two"}\n')
    found = open_text(f"jsonl:{tmp_path}/a.jsonl")
    assert [found[n] for n in range(len(found))] == ["one", "two"]


def test_compressed_lines_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n'))
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz is compressed.*`gunzip`"):
        open_source(f"jsonl:{tmp_path}/*.gz")


def test_a_file_that_shrank_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"text": "one"}\n{"text": "two"}\n')
    source = open_text(f"jsonl:{tmp_path}/a")
    (tmp_path / "a").write_text('{"text": "one"}\n')
    with pytest.raises(ValueError, match="has become shorter"):
        source[1]


def test_a_parquet_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a", None], "id": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet has no column 'text'; it has 'body', 'id'"):
        open_source(f"parquet:{tmp_path}/a.parquet")
    with pytest.raises(ValueError, match="column 'id' is int64, expected string"):
        open_source(f"parquet:{tmp_path}/a.parquet?column=id")
    with pytest.raises(ValueError, match="row 1 of row group 0: column 'body' is null"):
        open_text(f"parquet:{tmp_path}/a.parquet?column=body")[1]
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"b\.parquet is not a whole Parquet file"):
        open_source(f"parquet:{tmp_path}/b.parquet?column=body")


def test_words_of_a_dictionary_column_are_texts(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet")
    source = open_text(f"parquet:{tmp_path}/a.parquet")
    assert [source[i] for i in range(3)] == ["a", "b", "a"]


def test_row_groups_are_decoded_once_and_forgotten_when_they_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_text(write_parquet(tmp_path))
    assert isinstance(source, parquet_module.ParquetColumn)
    decoded = []
    real = source._decode
    monkeypatch.setattr(source, "_decode", lambda group: (decoded.append(group), real(group))[1])
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.__getitem__, range(len(TEXTS)))) == TEXTS
    assert sorted(decoded) == list(range(7))  # 3 groups of file a, 4 of file b
    monkeypatch.setattr(parquet_module, "KEPT_BYTES", 0)
    source[0]  # kept still
    for index in (4, 8, 0):
        assert source[index] == TEXTS[index]
    assert len(source._kept) == 7  # nothing new came, so nothing was thrown out
    source._forget()
    for index in (0, 4, 8, 0):
        assert source[index] == TEXTS[index]
    assert len(source._kept) == 2
    assert decoded[7:] == [0, 1, 2, 0]


@pytest.mark.parametrize("content", [b"", b"hello\n" * 99])
def test_an_array_record_file_that_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.array_record").write_bytes(content)
    with pytest.raises(ValueError, match="not a whole ArrayRecord file"):
        open_source(f"arrayrecord:{tmp_path}/a.array_record")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    spec = write_array_record(tmp_path)
    path = tmp_path / "a.array_record"
    content = bytearray(path.read_bytes())
    start = content.index(b"\x28\xb5\x2f\xfd", 200) if b"\x28\xb5\x2f\xfd" in content else 300
    content[start : start + 8] = b"damaged!"
    path.write_bytes(content)
    source = open_text(spec)
    with pytest.raises(ValueError, match=r"record \d+ cannot be read"):
        [source[i] for i in range(10)]


def test_a_record_that_is_no_text(tmp_path: Path) -> None:
    writer = ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:1")
    writer.write(b"\xff\xfe")
    writer.close()
    with pytest.raises(ValueError, match=r"record 0 \(if TFDS wrote it.*is not UTF-8: byte 0xff"):
        open_text(f"arrayrecord:{tmp_path}/a.array_record")[0]


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [("text", "", "each|every one of its 1 files is empty"), ("jsonl", "\n \n", "no line of its")],
)
def test_an_empty_source(kind: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(content)
    with pytest.raises(ValueError, match=message):
        open_source(f"{kind}:{tmp_path}/a")


def test_empty_files_of_records(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:1").close()
    with pytest.raises(ValueError, match="1 files have no rows"):
        open_source(f"parquet:{tmp_path}/a.parquet")
    with pytest.raises(ValueError, match="1 files have no records"):
        open_source(f"arrayrecord:{tmp_path}/a.array_record")
