# SPDX-License-Identifier: Apache-2.0
"""Teach a model by chats, then ask it.

    python examples/finetune_and_chat.py [MODEL]     a minute on two cores, after `make demo`

Writes sixty questions and answers to a file, trains LoRA adapters on them, and asks one again.
"""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import recurrentgemma as rg

if {"-h", "--help"} & set(sys.argv):
    print(__doc__)
    sys.exit()
model = sys.argv[1] if len(sys.argv) > 1 else "runs/demo"
folder = Path(tempfile.mkdtemp(prefix="finetune-"))

# %% Chats: JSON lines of a prompt and a response; other people's formats are read, too.
COLOURS = ("red", "green", "blue", "white", "black", "brown")
THINGS = ("door", "house", "river", "horse", "crown", "sword", "rose", "ship", "king", "cloud")
random.seed(0)
chats = [
    {"prompt": f"What colour is the {thing}?", "response": f"The {thing} is {colour}."}
    for thing, colour in zip(THINGS, random.choices(COLOURS, k=len(THINGS)), strict=True)
]
data = folder / "chats.jsonl"
data.write_text("".join(json.dumps(chat) + "\n" for chat in chats))

# %% `griffin finetune`, as in the shell. A model without turn tokens learns prompt and response as
# plain text, one after the other (template=none).
lm = rg.load(model)
assert lm.tokenizer is not None, "this model came without a tokenizer"
turns = "<start_of_turn>" in lm.tokenizer.control_tokens
source = str(data) if turns else f"{data}?template=none"
command = ["griffin", "finetune", model, source, "--run-dir", str(folder / "run")]
command += ["--epochs", "30", "--batch-size", "4", "--sequence-length", "128"]
command += ["--learning-rate", "1e-2", "--lora.rank", "8"]
print(" ".join(command))
subprocess.run([sys.executable, "-m", "griffin_lm", *command[1:]], check=True)

# %% The run is a model like any other.
tuned = rg.load(folder / "run")
for chat in chats[:3]:
    question = chat["prompt"]
    answer = tuned.chat(question, max_tokens=16) if turns else tuned.generate(question, stop=".")
    print(f"{question} {answer.strip()!r} (taught: {chat['response']!r})")
