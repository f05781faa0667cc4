"""A server of pages on a local port, for tests in a browser."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request


@contextlib.contextmanager
def served(command, health, cwd=None, environment=None):
    """Start ``command`` with ``--host`` and ``--port``, wait until the page ``health`` answers, give the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, port = address.split(":")
    # a session of its own, whose workers end with it
    server = subprocess.Popen(
        [*command, "--host", host, "--port", port], cwd=cwd, env={**os.environ, **(environment or {})},
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://{address}/{health}", timeout=5)
                break
            except OSError:
                assert server.poll() is None, f"{command} ended"
                time.sleep(0.5)
        yield f"http://{address}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
