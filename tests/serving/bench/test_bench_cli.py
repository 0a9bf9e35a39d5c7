"""`griffin bench`: the table of what it measures."""

import pytest

from recurrentgemma.errors import UserError
from serving.bench import bench_cli


def test_help_names_every_measurement(capsys):
    assert bench_cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and one.summary in shown for name, one in bench_cli.BENCHES.items())
    assert bench_cli.main([]) == 2
    assert capsys.readouterr().err == shown


def test_what_there_is_no_measurement_of():
    with pytest.raises(UserError, match=r"'kernel' .*did you mean 'kernels'.*kernels or serve"):
        bench_cli.main(["kernel"])


def test_the_rest_of_the_line_is_the_measurements_own(capsys):
    with pytest.raises(SystemExit) as stop:
        bench_cli.main(["serve", "--help"])
    assert stop.value.code == 0
    assert "griffin bench serve" in capsys.readouterr().out
