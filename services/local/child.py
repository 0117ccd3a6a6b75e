"""Becomes the program given to it, tied to the life of its parent; run as a script, never imported.

Usage: child.py PARENT_PID DEATH_SIGNAL UID CAPABILITY PROGRAM [ARGUMENT ...]

Linux sends DEATH_SIGNAL when the parent dies, however it dies; guard.py kills what does not stop.
UID 0 means: stay who we are. Any other is taken on, for PostgreSQL, which refuses root; CAPABILITY
(a number, or -1) is then kept, so that files below a folder closed to that user are still found.
"""

import ctypes
import os
import pwd
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 4
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522


def _become(uid: int, capability: int) -> None:
    keep = capability >= 0
    libc = ctypes.CDLL(None, use_errno=True) if keep else None
    if libc and libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0):
        # Without it, the change of user drops every capability, and access(2), with which initdb
        # looks for its companions, ignores the one that is kept.
        raise OSError(ctypes.get_errno(), "cannot keep a capability across the change of user")
    os.setgroups([])
    os.setgid(pwd.getpwuid(uid).pw_gid)
    os.setuid(uid)
    if libc:
        mask = 1 << capability
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        # effective, permitted, inheritable: first their low words, then their high words, all zero.
        sets = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
        if libc.capset(header, sets) or libc.prctl(
            _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0
        ):
            raise OSError(ctypes.get_errno(), "cannot keep the capability to find our own files")


def main(argv: list[str]) -> None:
    """Drops privileges if told to, asks for the death signal, and becomes the program."""
    parent, death_signal, uid, capability = (int(word) for word in argv[:4])
    program = argv[4:]
    if uid:
        _become(uid, capability)
    if sys.platform == "linux":
        # After the change of user, which clears it.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:
            raise SystemExit("the parent died first")
    os.execv(program[0], program)  # noqa: S606 - our own argument list


if __name__ == "__main__":
    main(sys.argv[1:])
