"""A lock on a file that a child process can go on holding."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Not filelock: a training must hold the lock of its folder even after the comparison that started it was killed, or
# the same command would start a second training there. So the training inherits the lock's descriptor; filelock has
# no public access to its descriptor, and rejects locks that a process inherited.
_NOT_SUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)


@contextlib.contextmanager
def held(path: Path, given_up: Callable[[], bool] = lambda: False) -> Iterator[int | None]:
    """Hold a lock on a file; wait while another process holds it.

    Children that get the descriptor keep the lock. Where there are no such locks (Windows, some shared disks), or when
    the waiting is given up, nothing is locked.

    Args:
        path: the file; it is created, and stays.
        given_up: asked while waiting; True ends the waiting.

    Yields:
        The descriptor, or None where there are no locks.
    """
    try:
        import fcntl
    except ImportError:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        told = False
        while not given_up():
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    print(f"{path.parent} is being worked on by another process: waiting for it", flush=True)
                told = True
                time.sleep(0.5)
            except OSError as error:
                if error.errno not in _NOT_SUPPORTED:
                    raise
                break
        yield descriptor
    finally:
        os.close(descriptor)
