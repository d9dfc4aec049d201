"""Refuses every connection and every look-up of a host's name, in any Python that has this folder on PYTHONPATH."""

import sys


def _refuse(event: str, args: tuple) -> None:
    local = event == "socket.connect" and isinstance(args[1], str | bytes)  # a socket of this machine's file system
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto"} and not local:
        raise OSError(f"no network here: {event} {args[1:] if event != 'socket.getaddrinfo' else args}")


sys.addaudithook(_refuse)
