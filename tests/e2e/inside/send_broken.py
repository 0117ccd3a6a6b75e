"""Sends records to the posts' Kafka topic that no consumer can read. Argument: how many."""

import sys

from services.core.kafka import make_producer
from services.core.settings import KafkaSettings, load

settings = load(KafkaSettings)
producer = make_producer(settings)
for number in range(int(sys.argv[1])):
    producer.send(settings.posts_topic, value=f"not json {number}".encode()).get(30)
producer.close()
