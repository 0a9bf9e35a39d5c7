# SPDX-License-Identifier: Apache-2.0
"""The guard of our import names, and the `griffin` command.

Two of our packages share their import name with another distribution: `recurrentgemma` with
DeepMind's, `kernels` with Hugging Face's. Installed side by side, the other one is found first, or
has written its `__init__.py` over ours; then nothing inside that package can be trusted to run, so
the check, and the command that needs it, live in the one module whose name nobody else has. A
folder of the user's called `training` or `checkpoints` is caught in the same way.

A verb is a function that takes the arguments after its name, usually handing them to tyro; its
module is imported when it is called. What a user can mend arrives here as UserError, as OSError or
as a device without memory, and leaves as one `error:` line and exit status 2; GRIFFIN_TRACEBACK=1
shows where it came from. Anything else is a bug and keeps its traceback.
"""

import atexit
import difflib
import importlib
import importlib.util
import io
import os
import sys
from typing import NamedTuple

__version__ = "0.1.0"

OTHERS = {
    "recurrentgemma": "DeepMind's `recurrentgemma`",
    "kernels": "Hugging Face's `kernels`",
}
MARK = "griffin-lm"  # stands in the first docstring of each of our packages


class NotOurs(ImportError):
    """A package of ours is missing, or another distribution's stands in its place."""


class Verb(NamedTuple):
    """Where a verb lives, as "module:function", what it does, in one line, and what needs less
    device memory."""

    target: str
    summary: str
    less_memory: str = "choose a smaller model"


VERBS = {
    "info": Verb(
        "checkpoints.info_cli:main",
        "parameters, state size and FLOPs of a preset or a checkpoint",
    ),
    "data": Verb("training.data.data_cli:main", "tokenise text ahead of training, or look at it"),
    "plan": Verb(
        "training.planning.plan_cli:main", "whether a TPU slice is enough to train on, without one"
    ),
    "train": Verb(
        "training.train_cli:main",
        "train a model on text; resumes where it stopped",
        "a higher --grad-accumulation-steps, --model.remat block, a lower --batch-size or "
        "--sequence-length, or --mesh.fsdp over more devices",
    ),
    "finetune": Verb(
        "training.finetuning.finetune_cli:main",
        "teach a checkpoint by prompts and responses, in full or LoRA",
        "--lora.rank instead of every parameter, --remat block, a lower --batch-size or "
        "--sequence-length, or --mesh.fsdp over more devices",
    ),
    "generate": Verb(
        "recurrentgemma.generation.generate_cli:main", "continue a prompt", "--dtype bfloat16"
    ),
    "chat": Verb(
        "recurrentgemma.generation.chat_cli:main", "chat on the terminal", "--dtype bfloat16"
    ),
    "serve": Verb(
        "serving.serve_cli:main",
        "serve a model over an OpenAI-compatible HTTP API",
        "fewer --slots",
    ),
    "batch": Verb(
        "serving.batch.batch_cli:main",
        "answer a file of requests in OpenAI's batch format, offline",
        "fewer --slots",
    ),
    "eval": Verb(
        "eval.eval_cli:main",
        "numbers about a model: perplexity, extrapolation and more",
        "--dtype bfloat16, a lower --batch-size or --chunk-length",
    ),
    "report": Verb("eval.report:main", "one HTML page of the results of evaluations and recipes"),
    "recipe": Verb(
        "training.recipes.recipe_cli:main",
        "experiments of companion papers: plasticity and more",
        "fewer --seeds",
    ),
    "convert": Verb(
        "checkpoints.convert_cli:main",
        "convert between griffin, Hugging Face and DeepMind checkpoints",
    ),
    "merge": Verb("checkpoints.merge_cli:main", "add LoRA adapters to the weights of their base"),
    "prune": Verb(
        "training.pruning.prune_cli:main",
        "remove hidden units of the MLPs: a smaller checkpoint",
        "--dtype bfloat16, a lower --batch-size or --chunk-length",
    ),
    "bench": Verb(
        "serving.bench.bench_cli:main", "how fast the kernels are here, or a server under load"
    ),
    "demo": Verb("training.demo:main", "train a small Griffin on Shakespeare, then serve it"),
}


def require_ours(*packages: str) -> None:
    """Check, without importing them, that these packages are griffin-lm's own.

    Each of our packages names all below it that it imports, because none of those may get to run.
    Raises NotOurs, which names what was found in place of ours, and what to do.
    """
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise NotOurs(
                f"griffin-lm's package `{package}` is missing: its installation is incomplete. "
                "Run `pip install --force-reinstall --no-deps griffin-lm`."
            )
        source = spec.loader.get_source(package) if spec.origin else None  # type: ignore[union-attr]
        if source is not None and MARK in source:
            continue
        place = spec.origin or ", ".join(spec.submodule_search_locations or [])
        if package in OTHERS:
            remedy = (
                f"{OTHERS[package]} has the same import name. Install griffin-lm into an "
                f"environment of its own, or run `pip uninstall {package}` and then "
                "`pip install --force-reinstall --no-deps griffin-lm` (`-e .` in a checkout)."
            )
        else:
            remedy = "Rename or move it, or start Python in another directory."
        raise NotOurs(f"`{package}` is not griffin-lm's: Python found {place}. {remedy}")


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
    name, *arguments = argv
    if name in ("-h", "--help"):
        print(usage(), end="")
        return 0
    if name == "--version":
        print(f"griffin-lm {__version__}")
        return 0
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"the verbs are {', '.join(VERBS)}."
        user_error = importlib.import_module("recurrentgemma.errors").UserError
        raise user_error(f"{name!r} is not a verb of griffin; {hint}")
    module, function = VERBS[name].target.split(":")
    require_ours(module.split(".")[0])
    importlib.import_module("recurrentgemma.memory").keep_freed_memory()
    return getattr(importlib.import_module(module), function)(arguments) or 0


def main(argv: list[str] | None = None) -> int:
    """The command's exit status: 0, 2 for a user's error, 130 after Ctrl-C."""
    interrupted: list[int] = []
    if argv is None:
        # Before anything else registers: it is called last, after JAX's and multiprocessing's.
        atexit.register(_exit_when_interrupted, interrupted)
        argv = sys.argv[1:]
    # JAX decomposes by OpenBLAS on a CPU, which is slower on several threads (docs/diagnostics.md).
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a terminal's encoding lacks is written as an escape: no text ends in an error.
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return run(argv)
        finally:
            sys.stdout.flush()  # a closed pipe shows here, not in a message at interpreter exit
    except KeyboardInterrupt:
        interrupted.append(130)
        return 130
    except BrokenPipeError:
        # The reader left, as `head` does: nothing to say, and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        message = what_to_mend(error, argv)
        if message is None or os.environ.get("GRIFFIN_TRACEBACK"):
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2


def _exit_when_interrupted(interrupted: list[int]) -> None:
    """End the process here after Ctrl-C. XLA may be compiling still, in a thread that nothing can
    stop, and it crashes (SIGSEGV, status 139) when Python unloads the library below it."""
    if interrupted:
        os._exit(interrupted[0])


def what_to_mend(error: Exception, argv: list[str]) -> str | None:
    """What to tell a user of an error that is not a bug; None for one that is."""
    try:
        require_ours("kernels", "recurrentgemma")
    except NotOurs:
        return str(error) if isinstance(error, OSError | NotOurs) else None
    errors = importlib.import_module("recurrentgemma.errors")
    if isinstance(error, OSError | NotOurs | errors.UserError):
        return str(error)
    if not errors.is_out_of_memory(error):
        return None
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    verb = VERBS.get(argv[0], Verb("", "")) if argv else Verb("", "")
    return f"out of memory ({text}); what needs less: {verb.less_memory}"


if __name__ == "__main__":
    sys.exit(main())
