"""What is answered stays answered, whatever becomes of the process."""

import json
import signal
import subprocess
import sys

import pytest

from recurrentgemma.errors import UserError
from serving.batch.answerer import Response
from serving.batch.journal import finished, open_journal
from serving.batch.lines import Requests

SETTINGS = {"model": "m"}


def response(line, status: int = 200) -> Response:
    body = {"text": line.custom_id, "usage": {"completion_tokens": 3}}
    return Response(line, status, body if status == 200 else {"error": {"message": "no"}})


@pytest.fixture
def requests(asked, line) -> Requests:
    return Requests(asked([line(name, {}) for name in "abcd"]))


def ids(path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


def test_files_in_the_order_of_the_requests(requests, tmp_path):
    out, errors = tmp_path / "out.jsonl", tmp_path / "errors.jsonl"
    a, b, c, d = requests
    with open_journal(out, requests, SETTINGS) as journal:
        for one, status in ((d, 200), (b, 400), (a, 200), (c, 200)):
            journal.add(response(one, status))
        assert (journal.refused, journal.tokens) == (1, 9)
        journal.finish(out, errors)
    assert (ids(out), ids(errors)) == (["a", "c", "d"], ["b"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("asked.jsonl", "errors.jsonl", "out.jsonl"),
    ]
    assert finished(out, errors, requests, SETTINGS)


def test_a_batch_of_the_same_names_is_another_one(requests, asked, line, tmp_path):
    """Other prompts, another model or other options, though each custom_id is there."""
    out, errors = tmp_path / "out.jsonl", tmp_path / "errors.jsonl"
    with open_journal(out, requests, SETTINGS) as journal:
        for number, one in enumerate(requests):
            journal.add(response(one, 400 if number else 200))
        journal.finish(out, errors)
    others = Requests(asked([line(name, {"prompt": "else"}) for name in "abcd"]))
    for of, settings in ((others, SETTINGS), (requests, {"model": "n"})):
        with pytest.raises(UserError, match="not of these requests by this model with these"):
            finished(out, errors, of, settings)
    assert finished(out, errors, requests, SETTINGS)


def test_a_start_without_an_answer_leaves_nothing_behind(requests, tmp_path):
    """And what one that was killed has left holds nobody back."""
    out, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    with open_journal(out, requests, SETTINGS) as journal:
        journal.hold_to({"weights": "one"})
        kept = part.read_bytes()
    assert not part.exists()
    part.write_bytes(kept)
    with open_journal(out, requests, {"model": "n"}) as journal:
        journal.hold_to({"weights": "another"})


@pytest.mark.parametrize("cut", [1, 30, 10_000])
def test_a_line_that_is_not_whole_is_cut_off(requests, tmp_path, cut):
    out = tmp_path / "out.jsonl"
    a, b, *_ = requests
    with open_journal(out, requests, SETTINGS) as journal:
        journal.add(response(a))
        journal.add(response(b))
    path = tmp_path / "out.jsonl.part"
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    with open_journal(out, requests, SETTINGS) as journal:
        assert list(journal.done) == ([] if cut > len(content) else ["a"])
        for one in requests:
            if one.custom_id not in journal.done:
                journal.add(response(one))
        journal.finish(out, tmp_path / "errors.jsonl")
    assert ids(out) == list("abcd")


def test_another_batch_is_refused(requests, asked, line, tmp_path):
    out, errors = tmp_path / "out.jsonl", tmp_path / "errors.jsonl"
    with open_journal(out, requests, SETTINGS) as journal:
        with (
            pytest.raises(UserError, match="being written by another process"),
            open_journal(out, requests, SETTINGS),
        ):
            pass
        journal.add(response(next(iter(requests))))
    with (
        pytest.raises(UserError, match=r"begun with model 'm' \(here 'n'\)"),
        open_journal(out, requests, {"model": "n"}),
    ):
        pass
    others = Requests(asked([line("z", {})]))
    with pytest.raises(UserError, match="other requests"), open_journal(out, others, SETTINGS):
        pass
    (tmp_path / "out.jsonl.part").write_text('{"batch": 3}\n{"custom_id": "z"}\n')
    with pytest.raises(UserError, match="damaged"), open_journal(out, others, SETTINGS):
        pass
    out.write_text('{"custom_id": "a"}\n')
    with pytest.raises(UserError, match="not of these requests"):
        finished(out, errors, others, SETTINGS)
    out.unlink()
    (tmp_path / "out.jsonl.part").unlink()
    errors.write_text("")
    with pytest.raises(UserError, match=r"errors.jsonl is there, and no out.jsonl"):
        finished(out, errors, others, SETTINGS)


KILLED = """
import sys, time
from pathlib import Path
from serving.batch.answerer import Response
from serving.batch.journal import open_journal
from serving.batch.lines import Requests
requests = Requests(Path(sys.argv[1]))
with open_journal(Path(sys.argv[2]), requests, {"model": "m"}) as journal:
    for number, line in enumerate(requests):
        if number == 2:
            print("two", flush=True)
            time.sleep(60)
        journal.add(Response(line, 200, {"text": line.custom_id}))
"""


def test_a_process_that_is_killed(requests, tmp_path):
    out = tmp_path / "out.jsonl"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "asked.jsonl"), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"two\n"
        process.send_signal(signal.SIGKILL)
    with open_journal(out, requests, SETTINGS) as journal:
        assert list(journal.done) == ["a", "b"]
