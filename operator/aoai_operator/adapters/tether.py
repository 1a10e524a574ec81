"""Runs a command that cannot outlive its parent: `python tether.py PARENT_PID COMMAND...`. Standard library only.

On Linux this process becomes the command (exec), after asking the kernel to kill it when the parent dies
(prctl(2), PR_SET_PDEATHSIG, which survives an execve of an ordinary binary). Elsewhere no such call exists: this
process stays, runs the command as a child, and kills it when its standard input, a pipe whose other end only the
parent holds, comes to its end. Either way a parent killed with -9 leaves nothing behind.

The signal is bound to the parent's *thread* that forked: start this from a thread that lives as long as the
process, the main one.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1


def _become(parent: int, command: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # The parent may have died before the call above; then nobody will send the signal any more.
    if os.getppid() != parent:
        raise SystemExit(1)
    os.execv(command[0], command)  # noqa: S606


def _guard(command: list[str]) -> int:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def kill_at_end_of_input() -> None:
        while os.read(0, 1):
            pass
        child.kill()

    signal.signal(signal.SIGTERM, lambda _number, _frame: child.terminate())
    threading.Thread(target=kill_at_end_of_input, daemon=True).start()
    return child.wait()


def main(arguments: list[str]) -> int:
    """Run the command of `arguments` = [parent's pid, command...]; on Linux this returns only on failure."""
    if sys.platform == "linux":
        _become(int(arguments[0]), arguments[1:])
    return _guard(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
