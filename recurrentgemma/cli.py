# SPDX-License-Identifier: Apache-2.0
"""`griffin <verb>`: a table of verbs, each imported only when it is called.

A verb is a function that takes the arguments after its name, usually handing them to tyro. What a
user got wrong arrives here as ValueError, OSError or ImportError and leaves as one `error:` line
and exit status 2; GRIFFIN_TRACEBACK=1 shows where it came from.
"""

import difflib
import importlib
import os
import sys
from typing import NamedTuple

from griffin_lm import __version__, require_ours
from recurrentgemma.memory import keep_freed_memory


class Verb(NamedTuple):
    """Where a verb lives, as "module:function", and what it does, in one line."""

    target: str
    summary: str


VERBS = {
    "info": Verb(
        "checkpoints.info_cli:main",
        "parameters, state size and FLOPs of a preset or a checkpoint",
    ),
    "data": Verb("training.data_cli:main", "tokenise text ahead of training, or look at it"),
    "plan": Verb(
        "training.plan_cli:main", "whether a TPU slice is enough to train on, without one"
    ),
    "train": Verb("training.train_cli:main", "train a model on text; resumes where it stopped"),
    "finetune": Verb(
        "training.finetune_cli:main", "teach a checkpoint by prompts and responses, in full or LoRA"
    ),
    "generate": Verb("recurrentgemma.generate_cli:main", "continue a prompt"),
    "serve": Verb("serving.serve_cli:main", "serve a model over an OpenAI-compatible HTTP API"),
    "convert": Verb(
        "checkpoints.convert_cli:main",
        "convert between griffin, Hugging Face and DeepMind checkpoints",
    ),
    "merge": Verb("checkpoints.merge_cli:main", "add LoRA adapters to the weights of their base"),
    "bench": Verb("recurrentgemma.bench_cli:main", "time the kernels against the machine's limit"),
    "demo": Verb("training.demo:main", "train a small Griffin on Shakespeare, then serve it"),
}


def usage() -> str:
    """The text of `griffin --help`."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items())
    return f"""usage: griffin VERB [OPTIONS]

Griffin, Hawk and RecurrentGemma: language models whose memory is a state of fixed size.

verbs:
{verbs}

`griffin VERB --help` shows the options of one verb, with examples. `griffin --version` prints
the version.
"""


def run(argv: list[str]) -> int:
    """Run the verb named by argv[0] and return the exit status; ValueError if there is none."""
    if not argv:
        print(usage(), end="", file=sys.stderr)
        return 2
    name, *rest = argv
    if name in ("-h", "--help"):
        print(usage(), end="")
        return 0
    if name == "--version":
        print(f"griffin-lm {__version__}")
        return 0
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"the verbs are {', '.join(VERBS)}."
        raise ValueError(f"{name!r} is not a verb of griffin; {hint}")
    module, function = VERBS[name].target.split(":")
    require_ours(module.split(".")[0])
    keep_freed_memory()
    return getattr(importlib.import_module(module), function)(rest) or 0


def main(argv: list[str] | None = None) -> int:
    """The command's exit status: 0, 2 for a user's error, 130 after Ctrl-C."""
    try:
        try:
            return run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()  # a closed pipe shows here, not in a message at interpreter exit
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader left, as `head` does: nothing to say, and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("GRIFFIN_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
