# SPDX-License-Identifier: Apache-2.0
"""`griffin eval phonebook` asks each size of book once, and shows and keeps what came of it."""

import json
from pathlib import Path

import pytest

from eval.tasks import phonebook
from eval.tasks.phonebook_cli import main
from recurrentgemma.errors import UserError
from tests.docs.world import write_model


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch, capsys):
    write_model(tmp_path / "model")
    argv = [str(tmp_path / "model"), "--entries", "3", "6", "--questions", "2", "--devices", "1"]
    argv += ["--out", str(tmp_path / "out"), "--json"]
    recall, sizes = phonebook.recall, []

    def stopped_at_6(*arguments, **options):
        sizes.append(arguments[2])
        if sizes == [3, 6]:
            raise KeyboardInterrupt
        return recall(*arguments, **options)

    monkeypatch.setattr(phonebook, "recall", stopped_at_6)
    with pytest.raises(KeyboardInterrupt):
        main(argv)
    main(argv)
    assert sizes == [3, 6, 6]
    shown = capsys.readouterr().out
    result = json.loads(shown.splitlines()[-1])
    assert {size: one["questions"] for size, one in result["entries"].items()} == {"3": 2, "6": 2}
    assert 0 < result["entries"]["3"]["nats"] < 200
    assert "Numbers found in a phonebook" in shown
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {".lock", "result.json", "phonebook.svg"}
    main(argv)
    assert sizes == [3, 6, 6], "it is finished"
    with pytest.raises(UserError, match="seed 0"):
        main([*argv, "--seed", "1"])


def test_bad_options():
    with pytest.raises(UserError, match="entries=2: expected from 3"):
        main(["model", "--entries", "2"])
    with pytest.raises(UserError, match="questions=0: expected at least 1"):
        main(["model", "--questions", "0"])
