"""Counts the posts of the lake whose id begins with a prefix, and prints files and posts as JSON.

Argument: the prefix.
"""

import json
import sys

import pyarrow.compute as pc

from services.core.settings import load
from services.etl.files import Files
from services.etl.settings import AwsSettings, LakeSettings

files = Files(load(LakeSettings), load(AwsSettings))
days = files.days()
posts = sum(
    pc.sum(pc.starts_with(batch["id"], sys.argv[1])).as_py() or 0
    for day in days
    for batch in files.read(day, columns=("id",))
)
sys.stdout.write(json.dumps({"files": len(days), "posts": posts}))
