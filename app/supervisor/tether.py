"""Runs a command that ends with the process that asked for it. A script, not to be imported.

    python -I -S tether.py PARENT SIGNAL UID:GID COMMAND [ARGUMENT ...]

The kernel sends SIGNAL to the command when its parent, process PARENT, dies by any cause, SIGKILL
too (prctl(2), PR_SET_PDEATHSIG). The command runs as UID and GID, -1:-1 for no change. They are set
here and not by the parent, because a change of user clears the death signal, and because this file
may lie in a folder that the other user cannot enter.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
PARENT_GONE = 125


def main() -> None:
    """Become the command."""
    parent, death_signal, account = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    uid, gid = (int(number) for number in account.split(":"))
    if uid >= 0:
        # The folder it was started in may be closed to the other user.
        os.chdir("/")
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:
        # It died before the signal was armed.
        sys.exit(PARENT_GONE)
    os.execv(sys.argv[4], sys.argv[4:])  # noqa: S606 the caller's own command, no shell


main()
