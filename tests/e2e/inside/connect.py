"""Opens a TCP connection to each host:port given and prints which of them answered, as JSON.

The first argument is how many seconds each may take.
"""

import json
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor


def answers(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + float(sys.argv[1])
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, int(port)), timeout=left):
                return True
        except OSError:
            time.sleep(0.2)
    return False


addresses = sys.argv[2:]
with ThreadPoolExecutor(len(addresses)) as pool:
    sys.stdout.write(json.dumps(dict(zip(addresses, pool.map(answers, addresses), strict=True))))
