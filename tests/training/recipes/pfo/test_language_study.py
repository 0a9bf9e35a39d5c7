# SPDX-License-Identifier: Apache-2.0
"""A small study runs, and what its arms are."""

from training.recipes.experiment import Cell
from training.recipes.pfo import language_study
from training.recipes.pfo.language_study import (
    LANGUAGE,
    NAMES,
    LanguageArm,
    conclude,
    first_able,
    measure,
)


def test_every_arm():
    arms = LANGUAGE.arms
    assert len(arms) == 8
    assert (arms["8/PFO"].pfo, arms["8/PFO"].kl, arms["8/PFO"].epochs) == (1.0, 0.0, 8)
    assert arms["2/KL"].kl == 0.04
    assert arms["8/GRPO"].method == "grpo"


def test_a_study(tmp_path):
    small = LanguageArm(
        width=32,
        layers=2,
        examples=40,
        base_steps=4,
        base_every=2,
        trial=4,
        prompts=20,
        held_out=5,
        iterations=2,
        rollout=8,
        batch_size=4,
        epochs=1,
        warmup=1,
        method="grpo",
    )
    ((_, numbers),) = measure([Cell("GRPO", small, 0)], tmp_path / "unfinished")
    assert not (tmp_path / "unfinished").exists()
    assert set(numbers["measured"]) == set(NAMES)
    assert all(len(curve) == 2 for curve in numbers["measured"].values())
    assert 0 <= numbers["after"] <= 1
    concluded = conclude({"GRPO": [numbers], "PPO": [numbers, numbers]})
    assert "GRPO: accuracy 0.000 to " in concluded.verdict
    assert concluded.tables[0].columns[:3] == ("arm", "examples_for", "before")


def test_the_first_checkpoint_that_is_able(tmp_path, monkeypatch):
    """Of three checkpoints the second is the first to answer half of the prompts, and none answers
    more: then it is the last."""
    trial = [{"prompt": "copy a=", "answer": "a"}, {"prompt": "copy b=", "answer": "b"}]
    answers = {10: ["", ""], 20: ["", "b "], 30: ["", "b"]}
    monkeypatch.setattr(language_study, "all_steps", lambda _: [30, 10, 20])
    monkeypatch.setattr(language_study, "load", lambda path: Answering(answers, int(path.name)))
    monkeypatch.setattr(language_study, "flat_params", lambda step: step)
    for share, step in ((0.5, 20), (0.6, 30), (0.0, 10)):
        assert first_able(tmp_path, LanguageArm(start=share), trial) == step


class Answering:
    """A language model whose parameters are the step that it was saved at."""

    def __init__(self, answers, step):
        self.answers, self.model = answers, step

    def with_params(self, step):
        return Answering(self.answers, step)

    def generate(self, questions, *, max_tokens):
        assert max_tokens == LanguageArm().max_new_tokens
        return self.answers[self.model][: len(questions)]
