# SPDX-License-Identifier: Apache-2.0
"""`griffin bench`: the table of its subcommands. Each stands with its options in a module of its
own, which is imported when it is called."""

from recurrentgemma.subcommands import Subcommand, listed, run

BENCHES = {
    "kernels": Subcommand(
        "recurrentgemma.bench_cli:main", "time the kernels against the machine's limit"
    ),
    "serve": Subcommand(
        "serving.bench.load_cli:main", "load a server: latency and throughput, with percentiles"
    ),
}


def usage() -> str:
    """The text of `griffin bench --help`."""
    return f"""usage: griffin bench WHAT [OPTIONS]

Measure how fast something is here.

what:
{listed(BENCHES)}

`griffin bench WHAT --help` shows the options of one, with examples.
"""


def main(argv: list[str]) -> int:
    """Measure what argv[0] names. Raises UserError: there is no such measurement."""
    expected = f"expected {' or '.join(BENCHES)}"
    return run(argv, BENCHES, usage=usage(), unknown="nothing to measure", expected=expected)
