"""Asks a model 50 times a second until one version alone has answered for ten seconds, and prints
as JSON how many requests failed and how many answers each version gave.

Half of the clients keep their connection, half open one for each request. Arguments: the model's
base address, that version, and after how many seconds to end in any case.
"""

import json
import sys
import time
from collections import Counter
from threading import Event, Thread

import urllib3

_CLIENTS = 8
_RATE = 50.0
_ALONE_SECONDS = 10.0
_BODY = json.dumps(
    {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["love it", "awful"]}]}
).encode()

url, wanted, most_seconds = f"{sys.argv[1]}/v2/models/sentiment/infer", sys.argv[2], sys.argv[3]
stop = Event()
failures: list[str] = []
answers: Counter[str] = Counter()
last: dict[str, float] = {}


def ask(number: int) -> None:
    kept = number % 2 == 0
    pool = urllib3.PoolManager(maxsize=1, retries=False, timeout=30.0)
    headers = {} if kept else {"Connection": "close"}
    due = began + number / _RATE
    while not stop.wait(max(0.0, due - time.monotonic())):
        due += _CLIENTS / _RATE
        try:
            answer = pool.request("POST", url, body=_BODY, headers=headers)
        except urllib3.exceptions.HTTPError as exc:
            failures.append(f"{'kept' if kept else 'new'}: {exc!r}")
            continue
        if answer.status != 200:
            failures.append(f"{answer.status}: {answer.data[:200]!r}")
            continue
        version = answer.json()["model_version"]
        answers[version] += 1
        last[version] = time.monotonic()


def alone() -> bool:
    others = [at for version, at in last.items() if version != wanted]
    return wanted in last and last[wanted] - max(others, default=began) > _ALONE_SECONDS


began = time.monotonic()
threads = [Thread(target=ask, args=(number,)) for number in range(_CLIENTS)]
for thread in threads:
    thread.start()
while not alone() and time.monotonic() - began < float(most_seconds):
    time.sleep(0.2)
stop.set()
for thread in threads:
    thread.join()
seconds = time.monotonic() - began
result = {
    "answers": answers,
    "failures": failures[:20],
    "seconds": round(seconds, 1),
    "per_second": round((answers.total() + len(failures)) / seconds, 1),
}
sys.stdout.write(json.dumps(result))
