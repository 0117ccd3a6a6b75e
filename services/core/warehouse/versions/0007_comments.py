"""What every view and its columns mean. The views are the interface for other programs: columns are
added, never renamed, removed or given another type.
"""

from alembic import op

revision = "0007"
down_revision = "0006"

_TOPIC = "What the posts are about; * is every post once, whatever its topics."
_COUNTS = {
    "posts": "Posts.",
    "negative": "Posts labelled negative.",
    "neutral": "Posts labelled neutral.",
    "positive": "Posts labelled positive.",
    "unscored": "Posts that the model could not score.",
    "average_score": "Average of the scores, -1 to +1; null where nothing was scored.",
}
_ERROR = "Standard error of the average: the truth is within twice of it 19 times in 20."
_POST = {
    "source": "Where the post is from: x, bluesky or replay.",
    "id": "The source's own id, unique within it.",
}
_LABEL = "negative, neutral or positive."
_SCORE = "p_positive less p_negative, -1 to +1."
_PREDICTION = {
    "label": _LABEL,
    "p_negative": "Probability, 0 to 1.",
    "p_neutral": "Probability, 0 to 1.",
    "p_positive": "Probability, 0 to 1.",
    "score": _SCORE,
    "model_name": "Name in the registry.",
    "model_version": "Version in the registry.",
    "stored_at": "When it was stored.",
}

VIEWS = {
    "sentiment_by_minute": (
        "Counts and average of each minute with posts, by topic.",
        {"topic": _TOPIC, "minute": "Its first instant."} | _COUNTS,
    ),
    "sentiment_by_hour": (
        "Counts and average of each hour with posts, by topic.",
        {"topic": _TOPIC, "hour": "Its first instant."} | _COUNTS | {"standard_error": _ERROR},
    ),
    "sentiment_by_day": (
        "Counts and average of each day with posts, by topic.",
        {"topic": _TOPIC, "day": "In UTC."} | _COUNTS | {"standard_error": _ERROR},
    ),
    "predictions": ("What the champion said of each post.", _POST | _PREDICTION),
    "predictions_by_role": (
        "What champion and challenger said, a row each.",
        {"role": "champion or challenger."} | _POST | _PREDICTION,
    ),
    "model_comparison": (
        "Champion and challenger on the same posts of the last 24 hours, a row for each pair of versions.",
        {
            "champion_version": "Version in the registry.",
            "challenger_version": "Version in the registry.",
            "posts": "Posts that both scored.",
            "agreed": "Of them, those that both labelled alike.",
            **{
                f"{role}_{label}": f"Posts that the {role} labelled {label}."
                for role in ("champion", "challenger")
                for label in ("negative", "neutral", "positive")
            },
            "champion_average_score": "-1 to +1.",
            "challenger_average_score": "-1 to +1.",
            "first_at": "When the first of these was stored.",
            "last_at": "When the last of these was stored.",
            **{
                f"{role}_p{part}_seconds": f"Time of the {role}'s request, {part}th percentile, in seconds."
                for role in ("champion", "challenger")
                for part in (50, 99)
            },
        },
    ),
    "corrected_posts": (
        "The newest label that a person gave each corrected post.",
        _POST
        | {
            "text": "The post.",
            "language": "As the source says it; null if it does not.",
            "label": "What the person says.",
            "predicted_label": "What the model had said.",
            "model_version": "Of the model that had said it.",
            "corrected_by": "The person's name.",
            "corrected_at": "When.",
        },
    ),
    "rescored_posts": (
        "What another model version says of posts of the past, beside the champion's word.",
        _POST
        | {
            "created_at": "When the post was written.",
            "topics": "What it is about.",
            "champion_label": _LABEL,
            "champion_score": _SCORE,
            "champion_version": "Version in the registry.",
            "model_version": "The version that scored it anew.",
            "label": "What that one says.",
            "score": _SCORE,
        },
    ),
    "backfill_progress": (
        "How far each scoring of the past is.",
        {
            "model_name": "Name in the registry.",
            "model_version": "The version that scores.",
            "first_hour": "First hour that is to be scored.",
            "last_hour": "Last hour that is to be scored.",
            "hours": "Hours with posts.",
            "hours_done": "Hours that are done.",
            "posts": "Posts that are to be scored.",
            "posts_read": "Posts that were read so far.",
            "rejected": "Posts that the model could not score.",
            "finished_at": "When the last hour was done; null until then.",
        },
    ),
    "dead_letters_by_reason": (
        "Records that were set aside, by reason.",
        {
            "reason": "Why.",
            "records": "Records.",
            "first_at": "When the first one was.",
            "last_at": "When the last one was.",
        },
    ),
    "rollup_errors": (
        "Empty, or the rollups are wrong: minutes that differ from a recount of the posts, and hours that are not the sum of their minutes.",
        {
            "topic": _TOPIC,
            "minute": "First instant of the minute or hour.",
            "expected": "The recount, as JSON.",
            "found": "What the rollup holds, as JSON.",
        },
    ),
}


def upgrade() -> None:
    """Writes the comments."""
    for view, (meaning, columns) in VIEWS.items():
        op.execute(f"COMMENT ON VIEW {view} IS {_quoted(meaning)}")
        for column, said in columns.items():
            op.execute(f"COMMENT ON COLUMN {view}.{column} IS {_quoted(said)}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
