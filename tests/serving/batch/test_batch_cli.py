"""`griffin batch`: its files, its exit status, and that it goes on where it was stopped."""

import json

import pytest

from recurrentgemma.errors import UserError
from serving.batch import batch_cli
from serving.batch.answerer import Answerer


@pytest.fixture
def batch(monkeypatch, griffin, asked, line, tmp_path):
    """`batch(*options)` over three lines, one of which is refused, by the engine of the tests."""
    monkeypatch.setattr(batch_cli, "_engine", lambda arguments: griffin)
    body = {"prompt": "ab", "max_tokens": 6, "temperature": 0}
    path = asked([line("a", body), line("b", body | {"top_p": 7}), line("c", body)])
    return lambda *options: batch_cli.main(["m", str(path), str(tmp_path / "out.jsonl"), *options])


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_and_errors(batch, griffin, tmp_path, capsys):
    assert batch("--json") == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["refused"] == 1
    answers = records(tmp_path / "out.jsonl")
    assert [record["custom_id"] for record in answers] == ["a", "c"]
    text = griffin.lm.generate("ab", max_tokens=6, temperature=0)
    assert [a["response"]["body"]["choices"][0]["text"] for a in answers] == [text, text]
    (error,) = records(tmp_path / "out.errors.jsonl")
    assert (error["custom_id"], error["response"]["status_code"]) == ("b", 400)
    assert error["response"]["body"]["error"]["param"] == "top_p"
    assert batch() == 1  # it is done: nothing is answered anew
    assert "has every answer already (3)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray-engines", "2"], "--ray-engines has no effect without --ray"),
        (["--ray", "local", "--ray-gpus", "-1"], "--ray-gpus -1.0: expected 0 or more"),
    ],
)
def test_options_of_a_cluster(batch, options, message):
    with pytest.raises(UserError, match=message):
        batch(*options)


def test_ctrl_c_and_on(batch, griffin, monkeypatch, tmp_path, capsys):
    answered = []

    def one_then_stop(self):
        if answered:
            raise KeyboardInterrupt
        answered.append(self._refused.pop())
        return answered

    with monkeypatch.context() as patched:
        patched.setattr(Answerer, "step", one_then_stop)
        with pytest.raises(KeyboardInterrupt):
            batch()
    assert "1 of 3 lines are answered; the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
    while griffin.busy:  # the process would be gone
        griffin.step()
    assert batch() == 1
    assert "1 of 3 lines were answered before" in capsys.readouterr().out
    assert len(records(tmp_path / "out.jsonl")) == 2


def test_answers_are_those_of_the_model_and_the_options(batch, tmp_path, monkeypatch):
    """All custom_ids are there, but what is asked now is something else."""
    (tmp_path / "m").mkdir()
    weights = tmp_path / "m/model.safetensors"
    weights.write_text("one")
    (tmp_path / "c.json").write_text("{}")
    steps = [3]
    monkeypatch.setattr("checkpoints.store.latest_step", lambda run: steps[-1])
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages }}")
    monkeypatch.chdir(tmp_path)
    options = ["--chat-template", "template.jinja", "--config", "c.json"]
    assert batch(*options) == 1
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    options[1:4:2] = "../template.jinja", "../c.json"

    def refused() -> bool:
        with pytest.raises(UserError, match="not of these requests by this model with these opt"):
            batch(*options)
        return True

    assert refused()  # m is another path here
    monkeypatch.chdir(tmp_path)
    options[1:4:2] = "template.jinja", str(tmp_path / "c.json")
    assert batch(*options) == 1
    options += ["--dtype", "bfloat16"]
    assert refused()
    options = options[:4]
    steps.append(4)  # it has been trained on
    assert refused()
    steps.pop()
    for file in (template, weights, tmp_path / "c.json"):
        before = file.read_text()
        file.write_text("another")
        assert refused()
        file.write_text(before)
    assert batch(*options) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--slots", "0"], "--slots 0: expected 1 or more"),
        (["--max-prompt", "0"], "--max-prompt 0"),
        (["--cache", "nan"], "--cache nan: expected 0 or more"),
        (["--errors", "out.jsonl"], "three different files"),
        (["--errors", "s3://bucket/errors.jsonl"], "s3://bucket/errors.jsonl is a URL: requests"),
        (["--errors", "."], "is a folder, and a file of answers is to be there"),
        (["--errors", "nowhere/errors.jsonl"], "no folder nowhere, in which errors.jsonl is to be"),
    ],
)
def test_what_cannot_be(batch, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        batch(*options)
