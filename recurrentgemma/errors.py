# SPDX-License-Identifier: Apache-2.0
"""The errors that are a user's to mend."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What was given cannot be: the message has the value, what was expected and what to do.

    field: the option or the field of a request that it is about, where there is one.

    The commands show it as one line, and the server answers it with a 400 that names the field. Any
    other ValueError is a bug of ours, or of a library's, and keeps its traceback.
    """

    def __init__(self, message: str, *, field: str | None = None):
        super().__init__(message)
        self.field = field


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """ " (did you mean 'NAME'?)", with the nearest of the names; nothing where none is near."""
    near = difflib.get_close_matches(name, list(names), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that the device, or the machine, had too little memory."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


class TemplateError(UserError):
    """A chat template has a mistake of its own, which nobody who writes messages can mend: the
    server answers it with a 500.

    too_much: it asked for more than a template may take, which may be due to long messages.
    """

    def __init__(self, message: str, *, too_much: bool = False):
        super().__init__(message)
        self.too_much = too_much


class MissingExtra(UserError, ImportError):
    """A package that only some uses need is not installed; the message says how to install it.

    Any other ImportError is a bug of ours, or of the installation, and keeps its traceback.
    """
