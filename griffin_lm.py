# SPDX-License-Identifier: Apache-2.0
"""The guard of our import names, kept in the one module whose name nobody else has taken.

Two of our packages share their import name with another distribution: `recurrentgemma` with
DeepMind's, `kernels` with Hugging Face's. Installed side by side, the other one is found first, or
has written its `__init__.py` over ours; then nothing inside that package can be trusted to run, so
the check, and the `griffin` command that needs it, live outside of all of them. A folder of the
user's called `training` or `checkpoints` is caught in the same way.
"""

import importlib
import importlib.util
import sys

__version__ = "0.1.0"

OTHERS = {
    "recurrentgemma": "DeepMind's `recurrentgemma`",
    "kernels": "Hugging Face's `kernels`",
}
MARK = "griffin-lm"  # stands in the first docstring of each of our packages


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


def main() -> int:
    """The `griffin` command: `recurrentgemma.cli`, once that is known to be ours."""
    try:
        require_ours("kernels", "recurrentgemma")
        cli = importlib.import_module("recurrentgemma.cli")
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
