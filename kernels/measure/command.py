# SPDX-License-Identifier: Apache-2.0
"""The options of a module that is run with `python -m`. Its docstring, which says what it is for,
how it is called, how long it takes and what to expect, is its --help."""

import argparse
import sys


def options(doc: str | None) -> argparse.ArgumentParser:
    """The parser of the module with this docstring; without an option it still answers --help and
    refuses what it does not know."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return argparse.ArgumentParser(
        prog=f"python -m {spec.name}" if spec else None,
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
