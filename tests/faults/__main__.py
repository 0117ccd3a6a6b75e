"""The fault table: `python -m tests.faults`.

Runs a test for each fault on real parts, prints a table of what was expected and seen, and writes
it as JSON and as Markdown. `--soak SECONDS` instead picks faults at random for that long.
"""

import argparse
import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

_FOLDER: Final = Path(__file__).parent
_CONSUMER: Final = "tests/integration/test_consumer.py"
_NOTIFIER: Final = "tests/integration/test_notifier.py"
_PROMOTER: Final = "tests/integration/test_promoter.py"
_X: Final = "tests/unit/test_source_x.py"

Proof = tuple[int, str, str, str]
"""Row, fault, what is expected, and the test elsewhere that proves it."""

PROVEN_ELSEWHERE: Final[Sequence[Proof]] = (
    (7, "SIGTERM under load", "a clean exit; Kafka's offsets equal the ledger",
     f"{_CONSUMER}::test_sigterm_under_load_exits_cleanly_with_everything_it_stored_committed"),
    (11, "every record is delivered again", "no row more; the same rollups",
     f"{_CONSUMER}::test_the_same_posts_again_add_no_rows_and_change_no_figures"),
    (11, "one post in two records", "stored once",
     "tests/integration/test_store.py::test_one_post_in_two_records_is_stored_once"),
    (23, "a broken model is promoted", "refused with the figure; the old version serves on",
     f"{_PROMOTER}::test_nonsense_is_refused_with_the_figure_and_the_old_version_serves_on"),
    (23, "a rollout never becomes ready", "the last good version comes back",
     f"{_PROMOTER}::test_past_the_deadline_the_last_good_version_comes_back_and_setting_the_alias"
     "_tries_again"),
    (24, "MLflow or the API server is away", "the promoter waits, alive, and names it",
     f"{_PROMOTER}::test_what_is_away_is_waited_for_alive_and_named"),
    (25, "poison values; a tombstone (28)", "exactly these are dead letters, with their reasons",
     f"{_CONSUMER}::test_exactly_the_bad_records_become_dead_letters_and_their_neighbours_are"
     "_stored"),
    (25, "any bytes at all", "a post or a reason, nothing else",
     "tests/unit/test_events.py::test_no_bytes_at_all_raise_anything_else"),
    (30, "X closes the stream again and again", "comes back, not in a hot loop",
     f"{_X}::test_after_clean_closes_it_comes_back_but_not_in_a_hot_loop"),
    (30, "X drops the connection", "opened again",
     f"{_X}::test_a_dropped_connection_is_opened_again"),
    (30, "X half open: no bytes", "left after the silence",
     f"{_X}::test_a_half_open_connection_is_left_after_the_silence"),
    (30, "X sends a line that is no post", "counted; the stream goes on",
     f"{_X}::test_a_line_that_is_no_post_is_counted_and_the_stream_goes_on"),
    (30, "X refuses the token or the app", "ends, saying what to do",
     f"{_X}::test_a_refused_token_or_app_ends_the_source_saying_what_to_do"),
    (30, "X answers 429", "waited out until the time it names",
     f"{_X}::test_a_rate_limit_is_waited_out_until_the_time_that_x_names"),
    (30, "X answers 503", "growing waits",
     f"{_X}::test_a_busy_server_is_tried_again_after_growing_waits"),
    (31, "the source is faster than Kafka", "bounded memory; what is let go is counted",
     f"{_X}::test_posts_beyond_the_queue_are_dropped_and_counted_not_waited_for"),
    (31, "Kafka is away while a file is replayed", "back-pressure; nothing is lost",
     "tests/integration/test_producer.py::test_a_broker_that_dies_and_comes_back_costs_a_file"
     "_nothing"),
    (34, "the receiver is down", "gets it when it is back",
     f"{_NOTIFIER}::test_a_receiver_that_is_down_gets_it_when_it_is_back"),
    (34, "the receiver is slow", "given up for now",
     f"{_NOTIFIER}::test_a_slow_receiver_is_given_up_for_now"),
    (34, "the receiver answers 429", "left alone that long",
     f"{_NOTIFIER}::test_who_asks_to_wait_is_left_alone_that_long"),
    (34, "the receiver answers 410", "gets no more",
     f"{_NOTIFIER}::test_who_wants_no_more_gets_no_more"),
    (34, "the receiver redirects", "not followed",
     f"{_NOTIFIER}::test_a_redirect_is_not_followed"),
    (35, "kill -9 of the notifier between send and mark", "sent again with the same id",
     f"{_NOTIFIER}::test_a_notifier_killed_while_it_sends_sends_again_with_the_same_id"),
    (38, "the dashboard without its database", "the page keeps its figures and says so",
     "tests/integration/test_dashboard.py::test_while_the_database_is_away_the_page_keeps_its_last"
     "_figures_and_says_so"),
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    row: int
    fault: str
    expected: str
    seen: str
    seconds: float | None
    """From the moment of healing until everything was taken in; None where nothing is waited
    for.
    """
    outcome: str
    """passed, failed, skipped, or xfailed: known and not yet solved."""
    posts: int | None
    """Acknowledged by Kafka, and accounted for."""
    seed: int | None
    test: str


class _Table:
    """A pytest plugin that turns reports into lines."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._told: dict[str, tuple[int, str, str]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Which row a test belongs to."""
        elsewhere = {node: (row, name, expected) for row, name, expected, node in PROVEN_ELSEWHERE}
        for item in items:
            mark = item.get_closest_marker("fault")
            told = mark.args if mark else elsewhere.get(item.nodeid.partition("[")[0])
            if told is not None:
                self._told[item.nodeid] = told

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A line for each fault that was tried, or could not be. The injectors' own tests have
        none.
        """
        told = self._told.get(report.nodeid)
        if told is None or (report.when != "call" and report.outcome == "passed"):
            return
        outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
        found: dict[str, Any] = dict(report.user_properties)
        reasons = {
            "passed": found.get("seen", "as expected"),
            "xfailed": getattr(report, "wasxfail", ""),
            "skipped": str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else "",
        }
        seen = reasons.get(outcome) or str(report.longrepr).splitlines()[-1]
        self.lines.append(
            Line(
                *told,
                seen,
                found.get("seconds"),
                outcome,
                found.get("posts"),
                found.get("seed"),
                report.nodeid,
            )
        )


def markdown(lines: Sequence[Line]) -> str:
    """The table for the documentation."""
    rows = [
        f"| {line.row} | {line.fault} | {line.expected} | {line.seen} "
        f"| {'' if line.seconds is None else line.seconds} | {line.outcome} |"
        for line in lines
    ]
    head = [
        "| row | fault | expected | seen | seconds to recover | outcome |",
        "| ---: | --- | --- | --- | ---: | --- |",
    ]
    return "\n".join([*head, *rows]) + "\n"


def main() -> int:
    """Returns 1 when a fault did not end as expected."""
    parser = argparse.ArgumentParser(
        "tests.faults", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", help="pytest's -k: run the tests whose names match")
    parser.add_argument("--soak", type=int, metavar="SECONDS", help="random faults for so long")
    parser.add_argument("--seed", type=int, help="repeats the random choices of an earlier run")
    parser.add_argument(
        "--output", type=Path, default=Path("build/faults"), help="folder of faults.json, .md"
    )
    arguments = parser.parse_args()
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
    os.environ["FAULTS_SEED"] = str(seed)
    # What a dead broker's connections leave to the collector must not end the run without a table.
    quiet = ["-W", "ignore::pytest.PytestUnraisableExceptionWarning"]
    options = [*quiet, "-p", "no:cacheprovider", "-q", "--durations=0", "-k", arguments.only or ""]
    if arguments.soak:
        os.environ["FAULTS_SOAK_SECONDS"] = str(arguments.soak)
        runs = [[str(_FOLDER / "test_soak.py")]]
    else:
        runs = [[str(_FOLDER)], [node for *_, node in PROVEN_ELSEWHERE]]
    table = _Table()
    failed = False
    for run in runs:
        status = pytest.main([*options, *run], plugins=[table])
        failed |= status not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
        # After each of the runs: one that is cut short leaves what was found before.
        lines = sorted(table.lines, key=lambda line: line.row)
        _write(arguments.output, seed, lines)
    sys.stdout.write(f"\nseed {seed}\n\n{markdown(lines)}")
    return int(failed or not lines)


def _write(folder: Path, seed: int, lines: Sequence[Line]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults.md").write_text(markdown(lines))
    result = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "seed": seed,
        "faults": [asdict(line) for line in lines],
    }
    (folder / "faults.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
