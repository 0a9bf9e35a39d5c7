# SPDX-License-Identifier: Apache-2.0
"""`griffin data tokenize` and `griffin data info`."""

import json
from pathlib import Path

import pytest

from training.data.data_cli import describe, main


def test_the_command_tokenises_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("ten green bottles\n" * (number + 1))
    out = tmp_path / "out"
    argv = ["tokenize", f"text:{tmp_path}/[0-2].txt", f"text:{tmp_path}/[34].txt"]
    main([*argv, "--tokenizer", "bytes", "--out", str(out), "--workers", "1"])
    shown = capsys.readouterr().out
    assert f"{out}: 5 documents, 280 tokens of 0.96 bytes, 1 shards of uint16, " in shown
    main(["info", str(out)])
    assert "documents        5\ntokens           280\n" in capsys.readouterr().out
    main(["info", f"text:{tmp_path}/*.txt", "--tokenizer", "bytes", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts == {
        "documents": 5,
        "bytes_on_disk": 270,
        "sampled": 5,
        "bytes_per_document": 54,
        "bytes_per_token": round(270 / 280, 3),
        "tokens_estimated": 280,
        "example": "ten green bottles\n",
    }
    assert describe(f"arrayrecord:{out}")["example"] == "ten green bottles\n"
