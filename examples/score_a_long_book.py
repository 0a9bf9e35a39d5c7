# SPDX-License-Identifier: Apache-2.0
"""How well is a long book predicted, near its beginning and far from it?

    python examples/score_a_long_book.py [MODEL] [BOOK.txt]     a minute on two cores

Without a book: the plays that the demo held out, one after the other. The whole book is read from
its first token to its last with one state; memory does not grow.
"""

import sys
import time
from pathlib import Path

import numpy as np

import recurrentgemma as rg

if {"-h", "--help"} & set(sys.argv):
    print(__doc__)
    sys.exit()
lm = rg.load(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
if len(sys.argv) > 2:
    book = Path(sys.argv[2]).read_text("utf-8")
else:
    from training.data.plays import plays

    learned, held_out = plays()  # the demo's model knows the first and not the second
    book = "\n".join(held_out[number] for number in range(len(held_out)))
assert lm.tokenizer is not None, "this model came without a tokenizer"

started = time.perf_counter()
nats = -lm.score(book).astype(np.float64)
seconds = time.perf_counter() - started
print(f"{len(nats):,} tokens in {seconds:.0f} s: {len(nats) / seconds:,.0f} tokens/s")
bits = nats.sum() / np.log(2) / len(book.encode())
print(f"{bits:.3f} bits per byte over the whole book")

start = 0
while start < len(nats):  # buckets that double, with the error of each mean
    stop = min(len(nats), max(2 * start, 256))
    part = nats[start:stop]
    error = part.std() / np.sqrt(len(part))
    bar = "#" * round(8 * part.mean())
    print(f"tokens {start:9,} to {stop:9,}: {part.mean():.3f} +- {error:.3f} nats a token {bar}")
    start = stop
