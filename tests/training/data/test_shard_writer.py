# SPDX-License-Identifier: Apache-2.0
"""Token shards hold what their text says, however they were made and however often killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints.files import locked
from training.data import shard_writer
from training.data.shard_folder import DiskFolder
from training.data.shard_tasks import index_of
from training.data.shard_writer import tokenise
from training.data.sources import fingerprint, open_data_source, open_text_source
from training.data.token_shards import TokenShards

ROOT = Path(__file__).parent.parent.parent


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_there_is_left_alone(corpus: Path, whole: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in whole.glob("tokens*")}
    tokenise([f"jsonl:{corpus}/a.jsonl"], str(corpus), whole, shards=9, workers=1)
    assert {path.name: path.stat().st_mtime_ns for path in whole.glob("tokens*")} == before


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_killed_and_called_again_is_the_same(
    corpus: Path, whole: Path, tmp_path: Path, workers: int
) -> None:
    out = tmp_path / "killed"
    argv = ["data", "tokenize", f"jsonl:{corpus}/a.jsonl", "--tokenizer", str(corpus)]
    argv += ["--out", str(out), "--shards", "9", "--workers", str(workers)]
    command = [sys.executable, "-m", "griffin_lm", *argv]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list(out.glob("tokens-*.array_record")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        workers_left = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("tokens-*.array_record")}
    assert 0 < len(finished) < 9
    assert not (out / "tokens.json").exists()
    with pytest.raises(ValueError, match="was not tokenised to the end; run the same"):
        open_data_source(f"arrayrecord:{out}")
    while any(map(running, workers_left)):  # they notice that nobody waits for them
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (out / ".tokens-00008-of-00009.array_record.1.tmp").write_bytes(b"half a shard")
    done = subprocess.run([sys.executable, "-m", "griffin_lm", *argv], cwd=ROOT, check=True)
    assert done.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert files_of(out) == files_of(whole)


def test_what_a_lost_machine_leaves_meanwhile_is_cleared_away(corpus, whole, tmp_path):
    out = tmp_path / "out"

    def leave(done: object) -> None:
        (out / ".tokens-00008-of-00009.array_record.1.tmp").write_bytes(b"half a shard")

    tokenise([f"jsonl:{corpus}/a.jsonl"], str(corpus), out, shards=9, workers=1, progress=leave)
    assert files_of(out) == files_of(whole)


@pytest.mark.parametrize("last", ["documents.npy", "tokens.json"])
def test_stopped_at_the_very_end_and_called_again_is_the_same(
    corpus: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Every shard is there; the index, or what tells of it, is not, or is there and not cleaned."""
    out = tmp_path / "stopped"
    real = DiskFolder.new

    def new(folder: DiskFolder, name: str):
        if name == last:
            raise OSError("no space left on device")
        return real(folder, name)

    options: dict[str, Any] = {"shards": 9, "workers": 1}
    with monkeypatch.context() as patch:
        patch.setattr(DiskFolder, "new", new)
        with pytest.raises(OSError, match="no space left"):
            tokenise([f"jsonl:{corpus}/a.jsonl"], str(corpus), out, **options)
    assert len(list(out.glob("*.array_record"))) == 9
    parts = {path: path.read_bytes() for path in out.glob("tokens-*.*.*")}
    manifest = (out / "plan.json").read_bytes()
    assert len(parts) == 18
    tokenise([f"jsonl:{corpus}/a.jsonl"], str(corpus), out, **options)
    assert files_of(out) == files_of(whole)
    parts[out / "plan.json"] = manifest
    for path, content in parts.items():  # as if killed before cleaning
        path.write_bytes(content)
    tokenise([f"jsonl:{corpus}/a.jsonl"], str(corpus), out, **options)
    assert files_of(out) == files_of(whole)


def test_a_lost_shard_is_made_again(corpus: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "lost"
    shutil.copytree(whole, out)
    lost = out / "tokens-00004-of-00009.array_record"
    lost.unlink()
    with pytest.raises(ValueError, match=f"{lost.name}: this shard is missing; run the same"):
        open_data_source(f"arrayrecord:{out}")
    tokenise([f"jsonl:{corpus}/a.jsonl"], str(corpus), out, shards=9, workers=1)
    assert files_of(out) == files_of(whole)


def test_a_source_that_changed_does_not_mend_a_lost_shard(
    corpus: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that the fingerprint's sample does not see: one word of a document in between."""
    out = tmp_path / "lost"
    shutil.copytree(whole, out)
    lost = out / "tokens-00000-of-00009.array_record"
    lost.unlink()
    lines = (corpus / "a.jsonl").read_text("utf-8").splitlines(keepends=True)
    lines[1] = lines[1].replace("a", "b")
    (tmp_path / "a.jsonl").write_text("".join(lines), "utf-8")
    spec = f"jsonl:{tmp_path}/a.jsonl"
    assert fingerprint(open_text_source(spec)) == fingerprint(
        open_text_source(f"jsonl:{corpus}/a.jsonl")
    )
    for _ in range(2):
        with pytest.raises(ValueError, match="was made again and is not what it was: its source"):
            tokenise([spec], str(corpus), out, shards=9, workers=1)
        assert not lost.exists()


@pytest.mark.parametrize("finished", [True, False])
def test_a_shard_that_was_damaged_is_made_again(
    corpus: Path, whole: Path, tmp_path: Path, finished: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "damaged"
    options: dict[str, Any] = {"shards": 9, "workers": 1}
    shutil.copytree(whole, out)
    if not finished:
        metadata = json.loads((out / "tokens.json").read_text())
        index, first = np.load(out / "documents.npy"), 0
        for number, shard in enumerate(metadata.pop("shards")):  # as it was before its end
            name = f"tokens-{number:05}-of-00009.array_record"
            (out / f"{name}.json").write_text(json.dumps(shard))
            last = first + shard["documents"]
            np.save(out / f"{name}.npy", index[:, first:last])
            first = last
        for name in ("documents", "tokens", "bytes"):
            del metadata[name]
        (out / "plan.json").write_text(json.dumps(metadata))
        (out / "tokens.json").unlink()
        (out / "documents.npy").unlink()
    cut, flipped = (out / f"tokens-0000{n}-of-00009.array_record" for n in (3, 5))
    cut.write_bytes(cut.read_bytes()[:-100])
    raw = bytearray(flipped.read_bytes())
    raw[len(raw) // 4] ^= 1
    flipped.write_bytes(raw)
    tokenise([f"jsonl:{corpus}/a.jsonl"], str(corpus), out, **options)
    assert files_of(out) == files_of(whole)
    errors = capsys.readouterr().err
    assert [f"{path} was damaged since" in errors for path in (cut, flipped)] == [True, True]
    assert errors.count("it is made again") == 2


def test_another_plan_in_the_same_directory_is_refused(corpus: Path, whole: Path, tmp_path: Path):
    spec = f"jsonl:{corpus}/a.jsonl"
    with pytest.raises(ValueError, match=r"holds something else .*: shard_count: 9 -> 8\. Ask for"):
        tokenise([spec], str(corpus), whole, shards=8, workers=1)
    with pytest.raises(ValueError, match=r"holds something else .*: tokenizer: "):
        tokenise([spec], "bytes", whole, shards=9, workers=1)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="exists and holds no token shards; choose another --out"):
        tokenise(["jsonl:no-such-file"], "bytes", tmp_path, workers=1)  # before it is opened
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="exists and holds no token shards; choose another --out"):
        tokenise([spec], "bytes", tmp_path / "link", workers=1)


def test_shards_in_the_current_directory(corpus: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenise([f"jsonl:{corpus}/a.jsonl"], "bytes", Path("."), shards=1, workers=1)
    assert len(TokenShards(tmp_path)) > 0


def test_two_calls_do_not_write_one_directory(corpus: Path, whole: Path) -> None:
    with locked(whole), pytest.raises(ValueError, match="being written by another"):
        tokenise([f"jsonl:{corpus}/a.jsonl"], str(corpus), whole, shards=9, workers=1)


def test_a_document_that_cannot_be_read_stops_it_and_loses_nothing(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{n} bottles"}) + "\n" for n in range(40)]
    good, bad = "".join(lines), "".join([*lines[:30], '{"txt": "a"}\n', *lines[31:]])
    (tmp_path / "a.jsonl").write_text(bad)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"a\.jsonl:31 has no field 'text'; it has 'txt'"):
        tokenise([f"jsonl:{tmp_path}/a.jsonl"], "bytes", out, shards=4, workers=1)
    assert not list(out.glob(".tokens*"))
    assert not (out / "tokens-00003-of-00004.array_record").exists()
    (tmp_path / "a.jsonl").write_text(good)
    message = r"sources: jsonl:\S+ \([\d,]+ documents, \w+\) -> jsonl:\S+ \([\d,]+ documents, "
    with pytest.raises(ValueError, match=message):
        tokenise([f"jsonl:{tmp_path}/a.jsonl"], "bytes", out, shards=4, workers=1)


def test_what_makes_no_sense_is_refused(corpus: Path, whole: Path, tmp_path: Path) -> None:
    spec, out = f"jsonl:{corpus}/a.jsonl", tmp_path / "out"
    with pytest.raises(ValueError, match="nothing to tokenise: name at least one source"):
        tokenise([], "bytes", out)
    with pytest.raises(ValueError, match="--out memory://x: what is in memory is seen by one"):
        tokenise([spec], "bytes", "memory://x")
    with pytest.raises(ValueError, match="holds token ids already"):
        tokenise([f"arrayrecord:{whole}"], "bytes", out)
    with pytest.raises(ValueError, match="1501 shards of 1500 documents: expected 1 to 1500"):
        tokenise([spec], "bytes", out, shards=1501)
    with pytest.raises(ValueError, match="-1 workers: expected 1 or more, or 0"):
        tokenise([spec], "bytes", out, workers=-1)
    with pytest.raises(ValueError, match="2 workers have no effect with Ray, which knows its"):
        tokenise([spec], "bytes", out, workers=2, ray="local")
    with pytest.raises(ValueError, match="there is no tokenizer file"):
        tokenise([spec], str(tmp_path / "none.model"), out)
    assert not out.exists()


def test_a_killed_worker_is_said_so(corpus: Path, tmp_path: Path) -> None:
    def kill(done: object) -> None:
        for child in children(os.getpid()):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(child, signal.SIGKILL)

    with pytest.raises(ValueError, match="a worker was killed, perhaps for want of memory"):
        tokenise(
            [f"jsonl:{corpus}/a.jsonl"], str(corpus), tmp_path / "out", workers=1, progress=kill
        )


def test_the_index_is_put_together_a_part_at_a_time(tmp_path: Path) -> None:
    for last in (2**32 - 1, 2**32):
        parts = [np.array([[5, 1], [9, 0]]), np.zeros((2, 0), np.int64), np.array([[7], [last]])]
        for number, part in enumerate(parts):
            np.save(tmp_path / f"{number}.npy", index_of(part))
        names = [f"{number}.npy" for number in range(3)]
        shard_writer._write_index(DiskFolder(tmp_path), names)
        np.save(tmp_path / "all.npy", index_of(np.concatenate(parts, axis=1)))
        assert (tmp_path / "documents.npy").read_bytes() == (tmp_path / "all.npy").read_bytes()


def test_sums_are_added_where_there_are_none(corpus: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "old"
    shutil.copytree(whole, out)
    (out / "sums.npy").unlink()
    tokenise([f"jsonl:{corpus}/a.jsonl"], str(corpus), out, shards=9, workers=1)
    assert files_of(out) == files_of(whole)
