# SPDX-License-Identifier: Apache-2.0
"""Where a server listens."""

import errno
import socket

from recurrentgemma.errors import UserError


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises OSError that says what to do, UserError for no port."""
    if not 0 <= port < 65536:
        raise UserError(f"--port {port}: expected 0 (any free port) to 65535")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except socket.gaierror as error:
        raise OSError(
            f"--host {host!r} is not an address of this machine ({error.strerror}): try 127.0.0.1"
        ) from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = "is already in use: stop what listens there, or choose another --port"
        elif error.errno == errno.EACCES:
            reason = "needs more rights than you have: choose a --port from 1024 on"
        elif error.errno == errno.EADDRNOTAVAIL:
            reason = "is not an address of this machine: try --host 127.0.0.1"
        else:
            reason = f"cannot be listened on ({error.strerror})"
        raise OSError(f"port {port} on {host} {reason} (0 takes any free port)") from None


def url_of(host: str, port: int) -> str:
    """Where one's own machine asks."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
