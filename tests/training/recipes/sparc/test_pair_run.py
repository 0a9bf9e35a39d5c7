# SPDX-License-Identifier: Apache-2.0
"""Towers of a user's own pictures: trained, stopped and gone on with, kept, and asked for words."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from checkpoints import store
from griffin_lm import main as griffin
from recurrentgemma.errors import UserError
from recurrentgemma.params import flat_params
from recurrentgemma.text.tokenizer import ByteTokenizer
from tests.drawn import untrained
from tests.training.data.pairs.small_pairs import CAPTIONS, png
from tests.training.recipes.sparc.small_pairs import GRIFFIN
from training.recipes.rl.saved import Saved
from training.recipes.sparc import pair_run
from training.recipes.sparc.pair_options import PairOptions

STEPS = 6
SIZES: dict[str, Any] = {
    "side": 16,
    "patch": 8,
    "width": 16,
    "depth": 1,
    "length": 16,
    "batch_size": 8,
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """40 of them; one cannot be decoded, and one has a caption that is too long."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = []
    for number in range(40):
        (folder / f"{number}.png").write_bytes(png(number) if number != 3 else b"none")
        caption = CAPTIONS[number % 4] + " on a table" * (number == 5)
        lines.append(json.dumps({"file_name": f"{number}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return f"folder:{folder}"


def train(options: PairOptions, folder: Path, say: Any = print, **changed: Any) -> Any:
    given = {"objective": "sparc", "local_weight": 1.0, "steps": STEPS, "seed": 0, **changed}
    return pair_run.train(options, folder, say=say, **given)


def test_stopped_it_goes_on_to_the_bit(
    pictures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pair_run, "Saved", functools.partial(Saved, every=0.0))
    monkeypatch.setattr(pair_run, "LOGGED_EVERY", 1)
    options = PairOptions(source=pictures, **SIZES)
    lines: list[str] = []
    whole, config, tokenizer, numbers = train(options, tmp_path / "whole", lines.append)
    assert config.text.vocab_size == tokenizer.vocab_size == 261
    assert numbers.keys() == {"i2t R@1", "i2t R@5", "t2i R@1", "t2i R@5", "gap", "of pairs"}
    assert numbers["of pairs"] == 2
    assert "step 6 of 6: " in lines[STEPS - 1]
    assert "gap" in lines[0]
    assert "1 of 49 pairs were left out: " in lines[STEPS]
    assert "metadata.jsonl:4: no image that can be decoded" in lines[STEPS]
    assert lines[STEPS + 1] == "1 of 49 captions were cut to 16 tokens"

    def until_third(line: str) -> None:
        if line.startswith("step 4"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(options, tmp_path / "part", until_third)
    lines.clear()
    part, *_ = train(options, tmp_path / "part", lines.append)
    assert lines[0] == "goes on after step 3 of 6"
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match="is of a training with other options"):
        train(options, tmp_path / "part", seed=1)


def test_by_command(pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A Griffin reads the captions, from a checkpoint, and stays a language model."""
    mine, model = tmp_path / "mine", tmp_path / "model"
    config = dataclasses.replace(GRIFFIN, vocab_size=261)
    store.write(mine, dict(flat_params(untrained(config))), config)
    options = [f"--pairs.{name.replace('_', '-')}={value}" for name, value in SIZES.items()]
    command = ["recipe", "sparc", "--train", str(model), "--steps", "2"]
    command += [f"--pairs.source={pictures}", f"--pairs.text={mine}", *options]
    assert griffin(command) == 2
    assert "has no tokenizer: put its file beside the weights" in capsys.readouterr().err
    ByteTokenizer().save(mine)
    assert griffin([*command, "--pairs.language-weight=0.1"]) == 0, capsys.readouterr()
    shown = capsys.readouterr().out
    assert "language" in shown
    assert "on pairs held out i2t R@1" in shown
    assert not (model / "training").exists()
    picture = Path(pictures.removeprefix("folder:")) / "0.png"
    asked = ["recipe", "sparc", "--query", "red thing", str(picture), "--model", str(model)]
    assert griffin([*asked, "--out", str(tmp_path)]) == 0, capsys.readouterr()
    assert "0.query.png: as it is, red, thing" in capsys.readouterr().out
    too_long = [*asked[:3], "a red thing on the table", *asked[4:]]
    assert griffin(too_long) == 2
    assert "the text tower takes 16" in capsys.readouterr().err
    (model / "byte_tokenizer.json").unlink()
    assert griffin(asked) == 2
    assert "has no tokenizer, with which its model was saved" in capsys.readouterr().err


def test_too_few(tmp_path: Path):
    (tmp_path / "0.png").write_bytes(png(0))
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": "a"}))
    with pytest.raises(UserError, match="has 1 pairs: expected at least 20"):
        train(PairOptions(source=f"folder:{tmp_path}"), tmp_path)
