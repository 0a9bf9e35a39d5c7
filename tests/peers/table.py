# SPDX-License-Identifier: Apache-2.0
"""The peers' benchmark as a Markdown table: ours beside the best of the others, and the limit.

    python tests/peers/table.py PEERS bench.jsonl --bandwidth 25 --float32 200 --bfloat16 1000

PEERS holds the drivers (drive.py, common.py) that wrote bench.jsonl, one line a run; of equal runs
the last one counts. Bandwidth in GB/s and matrix products in GFLOP/s are what limits.py of the
same folder measured on the same machine. See docs/performance.md.
"""

import argparse
import json
import sys
from pathlib import Path


def limit(cfg, dtype: str, task: str, work: dict, arguments: argparse.Namespace) -> float:
    """Tokens/s that the machine allows: matrix products, or in decoding bytes, at its speed."""
    flops = 1e9 * (arguments.bfloat16 if dtype == "bf16" else arguments.float32)
    size = 2 if dtype == "bf16" else 4
    if task == "train":
        tokens = work["B"] * work["T"]
        return tokens / (3 * cfg.fwd_flops(work["T"], work["B"]) / flops)
    if task == "prefill":
        batch = work.get("B", 1)
        return batch * work["P"] / (cfg.fwd_flops(work["P"], batch, head_tokens=1) / flops)
    batch = work["B"]
    seconds = max(
        cfg.decode_bytes(size, batch) / (1e9 * arguments.bandwidth),
        2 * batch * cfg.matmul_params() / flops,
    )
    return batch / seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peers", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--bandwidth", type=float, required=True)
    parser.add_argument("--float32", type=float, required=True)
    parser.add_argument("--bfloat16", type=float, required=True)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.peers))
    from common import CFGS  # type: ignore[import-not-found]

    latest = {}
    for line in arguments.runs.read_text().splitlines():
        if line.strip():
            run = json.loads(line)
            if run["nt"] == arguments.threads:
                latest[run["cfg"], run["dtype"], run["task"], json.dumps(run["kw"])] = run
    print(
        "| model | dtype | work | ours tok/s | of the limit | best other | ratio "
        "| compile s, ours / other | peak MiB, ours / other |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for (name, dtype, task, _), run in sorted(latest.items()):
        done = {peer: result for peer, result in run["res"].items() if "tok_s" in result}
        if "ours" not in done or len(done) < 2:
            continue
        ours = done.pop("ours")
        best = max(done, key=lambda peer: done[peer]["tok_s"])
        other = done[best]
        work = " ".join(f"{key}={value}" for key, value in run["kw"].items() if key != "mode")
        share = ours["tok_s"] / limit(CFGS[name], dtype, task, run["kw"], arguments)
        print(
            f"| {name} | {dtype} | {task} {work} | {ours['tok_s']:,.0f} | {share:.0%} "
            f"| {best} {other['tok_s']:,.0f} | **{ours['tok_s'] / other['tok_s']:.2f}** "
            f"| {ours['compile_s']:.1f} / {other['compile_s']:.1f} "
            f"| {ours['hwm']:,.0f} / {other['hwm']:,.0f} |"
        )


if __name__ == "__main__":
    main()
