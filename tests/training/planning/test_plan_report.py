# SPDX-License-Identifier: Apache-2.0
"""The plans of docs/training.md: which they are, and a line of the table."""

from training.planning import plan_report

PLAN = {
    "topology": "v5e:4x4",
    "mesh": {"data": 1, "fsdp": 16, "sequence": 1, "tensor": 1},
    "fits": True,
    "remat": "half_mlp",
    "batch": 16,
    "sequence": 8192,
    "bytes_per_device": {
        "parameters": 2**29,
        "optimizer": 2**30,
        "activations": None,
        "temporaries": 2**33,
        "program": 0,
        "total": 2**34,
        "limit": 2**34,
    },
    "flops": {"model": 2.2e15},
    "collectives": {"all-gather over fsdp": {"bytes": 3e10}},
    "seconds": {"arithmetic": 0.8, "memory": 0.4, "interconnect": 0.3},
    "step_seconds": 0.8,
    "mfu_bound": 0.874,
}


def test_a_line_has_a_cell_for_each_heading():
    line = plan_report.row("recurrentgemma_2b", PLAN)
    assert line.count("|") == plan_report.HEAD.count("|") + 2
    assert "| half_mlp | yes | 0.5 | 1.0 |  | 8.0 | 16.0 / 16.0 |" in line
    assert line.endswith("| 0.80 / 0.40 / 0.30 | 0.80 | 87.4% |")
    nothing = PLAN | {"fits": False, "step_seconds": None, "mfu_bound": None, "seconds": {}}
    assert plan_report.row("recurrentgemma_2b", nothing).endswith("|  |  |  |")


def test_the_finished_are_not_made_again(tmp_path, monkeypatch, capsys):
    asked = []

    def best(*job):
        asked.append(job)
        return PLAN

    monkeypatch.setattr(
        plan_report, "jobs", lambda: [("recurrentgemma_2b", "v5e:4x4", 16, 8192, None)]
    )
    monkeypatch.setattr(plan_report, "best", best)
    monkeypatch.setattr(plan_report, "topology_size", lambda topology: 16)
    for remat in ("auto", "block", "auto"):
        out = str(tmp_path / "plans.jsonl")
        monkeypatch.setattr("sys.argv", ["plan_report", "--out", out, "--remat", remat])
        plan_report.main()
        assert "half_mlp" in capsys.readouterr().out
    assert asked == [("recurrentgemma_2b", r, "v5e:4x4", 16, 8192, None) for r in ("auto", "block")]
    monkeypatch.setattr("sys.argv", ["plan_report", "griffin_14b:v5e:4x4"])
    plan_report.main()
    assert "half_mlp" not in capsys.readouterr().out
