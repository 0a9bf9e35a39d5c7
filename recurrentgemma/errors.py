# SPDX-License-Identifier: Apache-2.0
"""The error that is a user's to mend."""


class UserError(ValueError):
    """What was given cannot be: the message has the value, what was expected and what to do.

    The commands show it as one line, and the server answers it with a 400. Any other ValueError is
    a bug of ours, or of a library's, and keeps its traceback.
    """
