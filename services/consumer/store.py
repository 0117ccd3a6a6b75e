"""The storing stage: one PostgreSQL transaction per batch holds the rows, the rollups, the outbox
and the ledger.

The offsets live beside the data they produced, so they cannot disagree: "let the consumer store its
offset in the same place as its output" (Kafka's design documentation, delivery semantics). A writer
whose idea of the offsets is out of date, because another consumer took over, changes nothing at
all.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final

from services.consumer.batch import Batch, DeadLetter, ScoredBatch, Span
from services.core.contract import labels_of
from services.core.errors import MoodstreamError
from services.core.events import ALL_TOPICS, Post
from services.core.postgres import Connection, Cursor, connect, transaction
from services.core.settings import PostgresSettings

_TRANSACTION_SECONDS: Final = 30.0
_TOPIC_SETS_CACHED: Final = 4_096
_NULL: Final = "\\N"
_NO_PREDICTION: Final = "\t".join([_NULL] * 6)

_STAGING = """
CREATE TEMPORARY TABLE staging (
    source text, id text, text text, language text, created_at timestamptz, author text,
    topics text[], label sentiment, p_negative real, p_neutral real, p_positive real,
    model_name text, model_version text, kafka_partition integer, kafka_offset bigint
) ON COMMIT DELETE ROWS
"""

_COLUMNS = """source, id, text, language, created_at, author, topics, label, p_negative, p_neutral,
    p_positive, model_name, model_version, kafka_partition, kafka_offset"""

_COPY = f"COPY staging ({_COLUMNS}) FROM STDIN"

# Rows are added in key order, so that two writers that meet wait for each other but never deadlock.
_INSERT = f"""
WITH inserted AS (
    INSERT INTO posts ({_COLUMNS})
    SELECT {_COLUMNS} FROM staging
    ON CONFLICT (source, id) DO NOTHING
    RETURNING topics, created_at, label, score, kafka_partition
), rolled AS (
    INSERT INTO rollup_minute AS rollup (topic, minute, shard, posts, negative, neutral, positive,
                                         unscored, score_sum, score_square_sum)
    SELECT topic, date_trunc('minute', created_at), %(shard)s, count(*),
           count(*) FILTER (WHERE label = 'negative'), count(*) FILTER (WHERE label = 'neutral'),
           count(*) FILTER (WHERE label = 'positive'), count(*) FILTER (WHERE label IS NULL),
           coalesce(sum(score::numeric), 0), coalesce(sum(score::numeric * score::numeric), 0)
    FROM inserted, unnest(topics || %(all)s::text) AS topic
    GROUP BY 1, 2
    ORDER BY 1, 2
    ON CONFLICT (topic, minute, shard) DO UPDATE SET
        posts = rollup.posts + excluded.posts,
        negative = rollup.negative + excluded.negative,
        neutral = rollup.neutral + excluded.neutral,
        positive = rollup.positive + excluded.positive,
        unscored = rollup.unscored + excluded.unscored,
        score_sum = rollup.score_sum + excluded.score_sum,
        score_square_sum = rollup.score_square_sum + excluded.score_square_sum
)
SELECT kafka_partition, count(*) FROM inserted GROUP BY kafka_partition
"""  # noqa: S608 - the only thing put into it is the constant list of columns

_ADVANCE = """
UPDATE kafka_offsets AS ledger
SET next_offset = moved.next, stored = ledger.stored + moved.stored,
    duplicates = ledger.duplicates + moved.duplicates,
    dead_lettered = ledger.dead_lettered + moved.dead_lettered,
    skipped = ledger.skipped + moved.skipped, updated_at = clock_timestamp(),
    end_offset = coalesce(moved.last, ledger.end_offset)
FROM unnest(%(partition)s::int[], %(expected)s::bigint[], %(next)s::bigint[], %(stored)s::bigint[],
            %(duplicates)s::bigint[], %(dead_lettered)s::bigint[], %(skipped)s::bigint[],
            %(last)s::bigint[])
    AS moved (partition, expected, next, stored, duplicates, dead_lettered, skipped, last)
WHERE ledger.consumer_group = %(group)s AND ledger.kafka_topic = %(topic)s
    AND ledger.kafka_partition = moved.partition AND ledger.next_offset = moved.expected
"""

_FIND_OFFSET = """
SELECT next_offset FROM kafka_offsets
WHERE consumer_group = %s AND kafka_topic = %s AND kafka_partition = %s
"""

_FIRST_OFFSET = """
INSERT INTO kafka_offsets (consumer_group, kafka_topic, kafka_partition, start_offset, next_offset)
VALUES (%s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING
"""

_SKIP = """
UPDATE kafka_offsets SET next_offset = %s, skipped = skipped + %s - next_offset
WHERE consumer_group = %s AND kafka_topic = %s AND kafka_partition = %s AND next_offset = %s
"""

# The Kafka topic was made anew: its offsets begin again, the counts of the old one stay.
_REWIND = """
UPDATE kafka_offsets SET start_offset = start_offset - next_offset + %s, next_offset = %s
WHERE consumer_group = %s AND kafka_topic = %s AND kafka_partition = %s AND next_offset = %s
"""

_DEAD_LETTER = """
INSERT INTO dead_letters (kafka_topic, kafka_partition, kafka_offset, reason, detail)
VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (kafka_topic, kafka_partition, kafka_offset)
    DO UPDATE SET reason = excluded.reason, detail = excluded.detail
"""

_OUTBOX = "INSERT INTO outbox (kind, payload) VALUES (%s, %s)"


class FencedError(MoodstreamError):
    """The ledger does not stand where this writer left it: another consumer, or an earlier try,
    moved it on.
    """


class Store:
    """One connection's view of the warehouse. Not thread-safe; opens and reopens its connection by
    itself.
    """

    def __init__(self, settings: PostgresSettings, group: str) -> None:
        self._settings = settings
        self._group = group
        self._connection: Connection | None = None

    def write(self, scored: ScoredBatch) -> Counter[str]:
        """Stores a batch whole or not at all, and says how many posts were stored, duplicates,
        dead_lettered.

        Raises FencedError when the batch must not be written, TemporaryError when it may succeed
        later.
        """
        batch = scored.batch
        dead = Counter(letter.record.partition for letter in scored.dead_letters)
        with transaction(self._open(), _TRANSACTION_SECONDS) as cursor:
            cursor.copy_expert(_COPY, io.BytesIO("".join(_rows(scored)).encode()))
            cursor.execute(_INSERT, {"shard": min(batch.spans), "all": ALL_TOPICS})
            stored: dict[int, int] = dict(cursor.fetchall())
            _write_dead_letters(cursor, scored)
            moves = [
                _move(number, span, stored.get(number, 0), dead[number], batch.ends.get(number))
                for number, span in sorted(batch.spans.items())
            ]
            cursor.execute(
                _ADVANCE,
                {"group": self._group, "topic": batch.topic}
                | {name: [move[name] for move in moves] for name in moves[0]},
            )
            if cursor.rowcount != len(moves):
                raise FencedError(
                    f"{len(moves) - cursor.rowcount} of the partitions {sorted(batch.spans)} "
                    "are not where this consumer left them"
                )
        count = Counter(stored=sum(stored.values()), dead_lettered=dead.total())
        count["duplicates"] = sum(span.records for span in batch.spans.values()) - count.total()
        return count

    def place(self, topic: str, partition: int, low: int, high: int) -> int:
        """The offset to read a partition from, given what Kafka holds of it: from `low` to before
        `high`.

        What Kafka deleted before it was read is entered as skipped. Raises TemporaryError.
        """
        where = (self._group, topic, partition)
        with transaction(self._open(), _TRANSACTION_SECONDS) as cursor:
            cursor.execute(_FIRST_OFFSET, (*where, low, low))
            cursor.execute(_FIND_OFFSET, where)
            row = cursor.fetchone()
            found = int(row[0]) if row else low
            if found < low:
                cursor.execute(_SKIP, (low, low, *where, found))
                return low
            if found > high:
                cursor.execute(_REWIND, (low, low, *where, found))
                return low
            return found

    def close(self) -> None:
        """Closes the connection, if any."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._settings, "moodstream-consumer")
            with transaction(self._connection, _TRANSACTION_SECONDS) as cursor:
                cursor.execute(_STAGING)
        return self._connection


def _move(
    partition: int, span: Span, stored: int, dead_lettered: int, last: int | None
) -> dict[str, int | None]:
    """One partition's step in the ledger: every record read is one of the three, every gap
    skipped.
    """
    return {
        "partition": partition,
        "expected": span.expected,
        "next": span.next,
        "stored": stored,
        "duplicates": span.records - stored - dead_lettered,
        "dead_lettered": dead_lettered,
        "skipped": span.next - span.expected - span.records,
        "last": last,
    }


def _write_dead_letters(cursor: Cursor, scored: ScoredBatch) -> None:
    if not scored.dead_letters:
        return
    cursor.executemany(_DEAD_LETTER, [_dead_letter_row(letter) for letter in scored.dead_letters])
    reasons: Mapping[str, int] = Counter(letter.reason for letter in scored.dead_letters)
    cursor.execute(_OUTBOX, ("posts.dead_lettered", json.dumps({"reasons": reasons})))


def _dead_letter_row(letter: DeadLetter) -> tuple[str, int, int, str, str]:
    record = letter.record
    detail = letter.detail.replace("\0", "\\0").encode(errors="replace").decode()
    return record.topic, record.partition, record.offset, letter.reason, detail


def _rows(scored: ScoredBatch) -> Iterator[str]:
    """The lines of PostgreSQL's COPY text format, one a post."""
    batch = scored.batch
    model = f"{_field(scored.model_name)}\t{_field(scored.model_version)}"
    rounded = scored.probabilities.round(6).tolist()
    for i, label, (negative, neutral, positive) in zip(
        scored.scored, labels_of(scored.probabilities), rounded, strict=True
    ):
        yield _row(batch, i, f"{label}\t{negative:.6f}\t{neutral:.6f}\t{positive:.6f}\t{model}")
    for i in scored.unscored:
        yield _row(batch, i, _NO_PREDICTION)


def _row(batch: Batch, i: int, prediction: str) -> str:
    post: Post = batch.posts[i]
    record = batch.records[i]
    return (
        f"{post.source}\t{_field(post.id)}\t{_field(post.text)}\t{post.language or _NULL}\t"
        f"{post.created_at.isoformat()}\t"
        f"{_NULL if post.author is None else _field(post.author)}\t"
        f"{_array(post.topics)}\t{prediction}\t{record.partition}\t{record.offset}\n"
    )


def _field(value: str) -> str:
    """Escapes what COPY's text format gives a meaning to."""
    if value.isalnum():
        return value
    return (
        value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    )


@lru_cache(maxsize=_TOPIC_SETS_CACHED)
def _array(topics: tuple[str, ...]) -> str:
    quoted = (topic.replace("\\", "\\\\").replace('"', '\\"') for topic in topics)
    return _field("{" + ",".join(f'"{topic}"' for topic in quoted) + "}")
