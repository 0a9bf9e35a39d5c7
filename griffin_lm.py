# SPDX-License-Identifier: Apache-2.0
"""The guard of our import names, and the `griffin` command.

Two of our packages share their import name with another distribution: `recurrentgemma` with
DeepMind's, `kernels` with Hugging Face's. Installed side by side, the other one is found first, or
has written its `__init__.py` over ours; then nothing inside that package can be trusted to run, so
the check, and the command that needs it, live in the one module whose name nobody else has. A
folder of the user's called `training` or `checkpoints` is caught in the same way.

A verb is a function that takes the arguments after its name, usually handing them to tyro; its
module is imported when it is called. A user's mistake arrives here as UserError, OSError or
ImportError and leaves as one `error:` line and exit status 2; GRIFFIN_TRACEBACK=1 shows where it
came from. Anything else is a bug and keeps its traceback.
"""

import difflib
import importlib
import importlib.util
import os
import sys
from typing import NamedTuple

__version__ = "0.1.0"

OTHERS = {
    "recurrentgemma": "DeepMind's `recurrentgemma`",
    "kernels": "Hugging Face's `kernels`",
}
MARK = "griffin-lm"  # stands in the first docstring of each of our packages


class Verb(NamedTuple):
    """Where a verb lives, as "module:function", and what it does, in one line."""

    target: str
    summary: str


VERBS = {
    "info": Verb(
        "checkpoints.info_cli:main",
        "parameters, state size and FLOPs of a preset or a checkpoint",
    ),
    "data": Verb("training.data.data_cli:main", "tokenise text ahead of training, or look at it"),
    "plan": Verb(
        "training.planning.plan_cli:main", "whether a TPU slice is enough to train on, without one"
    ),
    "train": Verb("training.train_cli:main", "train a model on text; resumes where it stopped"),
    "finetune": Verb(
        "training.finetuning.finetune_cli:main",
        "teach a checkpoint by prompts and responses, in full or LoRA",
    ),
    "generate": Verb("recurrentgemma.generation.generate_cli:main", "continue a prompt"),
    "serve": Verb("serving.serve_cli:main", "serve a model over an OpenAI-compatible HTTP API"),
    "convert": Verb(
        "checkpoints.convert_cli:main",
        "convert between griffin, Hugging Face and DeepMind checkpoints",
    ),
    "merge": Verb("checkpoints.merge_cli:main", "add LoRA adapters to the weights of their base"),
    "bench": Verb("recurrentgemma.bench_cli:main", "time the kernels against the machine's limit"),
    "demo": Verb("training.demo:main", "train a small Griffin on Shakespeare, then serve it"),
}


def require_ours(*packages: str) -> None:
    """Check, without importing them, that these packages are griffin-lm's own.

    Each of our packages names all below it that it imports, because none of those may get to run.
    Raises ImportError that names what was found in place of ours, and what to do.
    """
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ImportError(
                f"griffin-lm's package `{package}` is missing: its installation is incomplete. "
                "Run `pip install --force-reinstall --no-deps griffin-lm`."
            )
        source = spec.loader.get_source(package) if spec.origin else None  # type: ignore[union-attr]
        if source is not None and MARK in source:
            continue
        found = spec.origin or ", ".join(spec.submodule_search_locations or [])
        if package in OTHERS:
            remedy = (
                f"{OTHERS[package]} has the same import name. Install griffin-lm into an "
                f"environment of its own, or run `pip uninstall {package}` and then "
                "`pip install --force-reinstall --no-deps griffin-lm` (`-e .` in a checkout)."
            )
        else:
            remedy = "Rename or move it, or start Python in another directory."
        raise ImportError(f"`{package}` is not griffin-lm's: Python found {found}. {remedy}")


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
    """Run the verb named by argv[0] and return the exit status.

    Raises UserError: there is no such verb.
    """
    require_ours("kernels", "recurrentgemma")
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
        raise _user_error()(f"{name!r} is not a verb of griffin; {hint}")
    module, function = VERBS[name].target.split(":")
    require_ours(module.split(".")[0])
    importlib.import_module("recurrentgemma.memory").keep_freed_memory()
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
    except Exception as error:
        mended_by_the_user = isinstance(error, OSError | ImportError | _user_error())
        if not mended_by_the_user or os.environ.get("GRIFFIN_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


def _user_error() -> type[Exception]:
    """recurrentgemma.errors.UserError, if what has that name is ours."""
    try:
        require_ours("kernels", "recurrentgemma")
    except ImportError as error:
        return type(error)
    return importlib.import_module("recurrentgemma.errors").UserError


if __name__ == "__main__":
    sys.exit(main())
