"""Prints the state of the consumer group once a second as a JSON line, until it is ended.

Each line: the time, the group's state, and the partitions of each member.
"""

import json
import os
import sys
import time

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from services.core.settings import KafkaSettings, load

settings = load(KafkaSettings)
group = os.environ.get("MOODSTREAM_CONSUMER_GROUP", "moodstream-consumer")
assert settings.password is not None
admin = KafkaAdminClient(
    bootstrap_servers=settings.bootstrap_servers.split(","),
    security_protocol="SASL_SSL",
    sasl_mechanism="SCRAM-SHA-512",
    sasl_plain_username=settings.username,
    sasl_plain_password=settings.password.get_secret_value(),
    ssl_cafile=str(settings.ca_file),
)
while True:
    try:
        described = admin.describe_groups([group])[group]
    except KafkaError:
        time.sleep(1)
        continue
    members = [
        sorted(
            partition
            for topic in (member["member_assignment"] or {}).get("assigned_partitions", ())
            for partition in topic["partitions"]
        )
        for member in described["members"]
    ]
    line = {"at": time.time(), "state": described["group_state"], "members": members}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    time.sleep(1)
