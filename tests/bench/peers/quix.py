"""A Quix Streams application as its documentation builds one: a model in `apply`, its PostgreSQL
sink, which writes once a commit interval.
"""

import os
from pathlib import Path

from quixstreams import Application
from quixstreams.sinks.community.postgresql import PostgreSQLSink

from services.core.model import load_pipeline

model = load_pipeline(Path(os.environ["MODEL"]))


def score(post: dict) -> dict:
    """The row of a post."""
    negative, neutral, positive = model.predict_proba([post["text"]])[0].tolist()
    return {
        **{name: post[name] for name in ("source", "id", "text", "language", "created_at")},
        "author": post["author"],
        "topics": "{" + ",".join(post["topics"]) + "}",
        "label": max((negative, "negative"), (neutral, "neutral"), (positive, "positive"))[1],
        "p_negative": negative,
        "p_neutral": neutral,
        "p_positive": positive,
        "model_name": "sentiment",
        "model_version": "1",
        "kafka_partition": 0,
        "kafka_offset": 0,
    }


sink = PostgreSQLSink(
    host=os.environ["PGHOST"],
    port=int(os.environ["PGPORT"]),
    dbname=os.environ["PGDATABASE"],
    user=os.environ["PGUSER"],
    password=os.environ["PGPASSWORD"],
    table_name="posts",
    schema_auto_update=False,
    on_conflict_do_nothing=True,
    include_metadata=False,
)
application = Application(
    broker_address=os.environ["BROKERS"],
    consumer_group="quix",
    auto_offset_reset="earliest",
    commit_interval=1.0,
)
frame = application.dataframe(application.topic(os.environ["TOPIC"], value_deserializer="json"))
frame.apply(score).sink(sink)
application.run()
