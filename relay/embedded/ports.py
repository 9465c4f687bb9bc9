"""Ports on loopback for servers of our own."""

import random
import socket

from relay.embedded.errors import PortTakenError

LOOPBACK = "127.0.0.1"
# Below the kernel's ephemeral range (32768 and up on Linux, 49152 on macOS), so that no outgoing
# connection can take the port of a server that is restarting.
_LOWEST, _HIGHEST = 20000, 32000
_ATTEMPTS = 200

# Not the common generator: tests seed that one, and two runs would try the same ports.
_dice = random.SystemRandom()


def is_free(port: int) -> bool:
    """Return whether a server could listen on this port of loopback now."""
    with socket.socket() as probe:
        # As the servers do: connections in TIME_WAIT do not make a port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port that was free a moment ago. It can be taken since: retry with another.

    Raises:
        PortTakenError: none of many tries was free.
    """
    for _ in range(_ATTEMPTS):
        port = _dice.randint(_LOWEST, _HIGHEST)
        if is_free(port):
            return port
    raise PortTakenError(f"no free port on {LOOPBACK} between {_LOWEST} and {_HIGHEST}")
