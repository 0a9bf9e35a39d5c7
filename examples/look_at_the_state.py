# SPDX-License-Identifier: Apache-2.0
"""Read, generate, and look at what the model remembers.

    python examples/look_at_the_state.py [MODEL]     a minute on two cores, after `make demo`

MODEL is a run, a checkpoint of any format, or a name on the Hugging Face hub.
"""

# %% A model and a session: a state in hand.
import sys

import jax
import numpy as np

import recurrentgemma as rg

if {"-h", "--help"} & set(sys.argv):
    print(__doc__)
    sys.exit()
lm = rg.load(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
session = lm.session()
print(session)

# %% Its size does not depend on what it has read.
text = "ROMEO:\nBut soft! What light through yonder window breaks?\n\n"
for times in (1, 10, 100):
    session.read(text * times)
    size = sum(array.nbytes for array in jax.tree.leaves(session.state))
    print(f"{session.tokens_seen:6,} tokens seen: a state of {size:,} bytes")

# %% One reading, many answers: a fork costs nothing, and the session stays where it was.
for seed in range(3):
    answer = session.fork().generate("JULIET:\n", max_tokens=32, temperature=0.8, seed=seed)
    print(f"--- seed {seed}\n{answer}")

# %% How surprised is it by what may follow?
for candidate in ("JULIET:\nO Romeo, Romeo!\n", "12, 19, 7 and 4 are numbers.\n"):
    nats = -session.score(candidate)
    print(f"{nats.mean():5.2f} nats a token: {candidate!r}")

# %% What each recurrent layer remembers: the size of its channels.
for number, layer in enumerate(session.state.layers):
    if hasattr(layer, "h_BE"):
        channels = np.abs(np.asarray(layer.h_BE[0]))
        print(
            f"layer {number}: {channels.size} channels, median {np.median(channels):.3f}, "
            f"largest {channels.max():.2f}"
        )
