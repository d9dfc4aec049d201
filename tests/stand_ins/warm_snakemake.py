"""Snakemake, imported once: a process that holds it forks one for every `snakemake` that a test starts.

Imports are three quarters of what a small run takes. What is forked is in every other way the process that was started:
its words, place, environment, files, umask and processors are handed over, and its end and signals passed on. Only its
parents differ: a test in which they matter empties FLP_STAND_IN_WARM. Where an environment would have started Python
differently, as in another locale, it is started.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable

START = ("PYTHON", "LC_", "LANG", "FLP_STAND_IN_SLURM")  # variables that shape a process's start begin with these


def hand_over(path: str) -> None:
    """Let the process at a socket do what this one was started for, and end as it ends; if it cannot, return."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:
        return
    state = {
        "argv": sys.argv,
        "place": os.getcwd(),
        "environment": dict(os.environ),
        "umask": _umask(),
        "processors": sorted(os.sched_getaffinity(0)),
    }
    message = json.dumps(state).encode() + b"\n"
    socket.send_fds(connection, [message[:1]], [0, 1, 2])
    connection.sendall(message[1:])
    answers = connection.makefile()
    if not (pid := int(answers.readline() or 0)):
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    status = int(answers.readline() or -signal.SIGKILL)
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def serve(path: str) -> None:
    """Import Snakemake, say so, and fork for whoever asks until standard input ends; a fork returns."""
    gc.disable()
    import pydantic  # noqa: F401
    import smart_open  # noqa: F401
    from snakemake.cli import get_argument_parser

    get_argument_parser()  # it imports Snakemake's plugins
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        if _forked(connection):
            return
    os._exit(0)


def _forked(connection: socket.socket) -> bool:
    """Become what was started (true), or watch over it and end with it."""
    first, files, _, _ = socket.recv_fds(connection, 1, 3)
    stream = connection.makefile("rw")
    state = json.loads(first.decode() + stream.readline())
    if _start(state["environment"]) != _start(os.environ):
        print(0, file=stream, flush=True)
        os._exit(0)
    if pid := os.fork():
        print(pid, file=stream, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=stream, flush=True)
        os._exit(0)
    stream.close()
    connection.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.argv[:] = state["argv"]
    sys.orig_argv[1:] = state["argv"]
    sys.path[0] = os.path.dirname(state["argv"][0])
    os.chdir(state["place"])
    os.environ.clear()
    os.environ.update(state["environment"])
    os.umask(state["umask"])
    os.sched_setaffinity(0, state["processors"])
    return True


def _start(environment: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(START)}


def _end(main: Callable[[], int]) -> None:
    """Do the work and end as after `sys.exit`, but leave freeing what was imported to the system, which is faster."""
    try:
        sys.exit(main())
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except Exception:
        sys.excepthook(*sys.exc_info())
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
    import sitecustomize
    from snakemake.cli import main

    sitecustomize.keep_times()
    sitecustomize.heed_modes()
    _end(main)
