"""Writes posts as JSON lines, each with an id of its own, dated inside one stretch of minutes.

Arguments: the file, the prefix of the ids (also their topic), how many, the first minute, how many
minutes.
"""

import json
import sys
from datetime import datetime, timedelta
from pathlib import Path

_TEXTS = (
    "what a wonderful morning, the train was on time",
    "the train is late again and nobody says why, terrible",
    "platform 4 leaves at nine",
    "honestly the best coffee at any station",
    "broken heating, cold coffee, never again",
)

path, prefix, count, first, minutes = sys.argv[1:]
start = datetime.fromisoformat(first)
with Path(path).open("w") as file:
    for number in range(int(count)):
        post = {
            "schema": 1,
            "source": "e2e",
            "id": f"{prefix}-{number}",
            "text": f"{_TEXTS[number % len(_TEXTS)]} ({number})",
            "language": "en",
            "created_at": (start + timedelta(minutes=number % int(minutes))).isoformat(),
            "topics": [prefix],
        }
        file.write(json.dumps(post) + "\n")
