"""The textbook pipeline: one message, one prediction, one INSERT, one commit."""

import json
import os
from pathlib import Path

import psycopg2
from kafka import KafkaConsumer

from services.core.model import load_pipeline

model = load_pipeline(Path(os.environ["MODEL"]))
connection = psycopg2.connect("")
consumer = KafkaConsumer(
    os.environ["TOPIC"],
    bootstrap_servers=os.environ["BROKERS"],
    group_id="textbook",
    auto_offset_reset="earliest",
    value_deserializer=json.loads,
)
for message in consumer:
    post = message.value
    negative, neutral, positive = model.predict_proba([post["text"]])[0].tolist()
    label = max((negative, "negative"), (neutral, "neutral"), (positive, "positive"))[1]
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO posts (source, id, text, language, created_at, author, topics, label, "
            "p_negative, p_neutral, p_positive, model_name, model_version, kafka_partition, "
            "kafka_offset) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) "
            "ON CONFLICT DO NOTHING",
            (
                *(post["source"], post["id"], post["text"], post["language"]),
                *(post["created_at"], post["author"], post["topics"], label),
                *(negative, neutral, positive, "sentiment", "1"),
                *(message.partition, message.offset),
            ),
        )
