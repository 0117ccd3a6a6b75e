"""The platform on a cluster, as anyone with kubectl and helm sees it: objects, SQL, HTTP, pods."""

# ruff: noqa: S608 - the queries are made of names that are made here

import base64
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from tests.waiting import wait_until

NAMESPACE: Final = os.environ.get("MOODSTREAM_E2E_NAMESPACE", "moodstream")
REPOSITORY: Final = Path(__file__).parents[2]

RELEASES: Final = ("moodstream", "mlflow", "platform")
"""Each of the chart of its name, in the order in which they are uninstalled."""

SOURCE: Final = "e2e"
"""The source of every post made here, by which they are found and removed."""
STRETCH_MINUTES: Final = 10
"""Posts made here are dated inside one stretch of minutes that no other post shares, so that they
can be removed together with their rollups.
"""
OWNED: Final = {"app.kubernetes.io/managed-by": "moodstream-e2e"}
"""Labels of every object made here."""
WAY_OUT: Final = {"moodstream.io/e2e-egress": "open"}
"""Label of pods that may open connections to anywhere, so that only the destination decides."""

_INSIDE: Final = Path(__file__).parent / "inside"
_POLL_SECONDS: Final = 1.0
_COMMAND_SECONDS: Final = 60.0
_KEPT_OF_POD: Final = ("securityContext", "serviceAccountName", "imagePullSecrets")
_KEPT_OF_CONTAINER: Final = (
    "name", "image", "imagePullPolicy", "env", "volumeMounts", "securityContext",
)  # fmt: skip
_ROLLOUT_SECONDS: Final = 300.0
_POD_SECONDS: Final = 1200
"""The cluster ends every pod made here after this time, whatever becomes of the tests."""


class CommandError(Exception):
    """A command ended with an error; the message is what it said."""


def run(*command: str, seconds: float = _COMMAND_SECONDS, stdin: str | None = None) -> str:
    """What the command prints. Raises CommandError."""
    return _done(command, seconds, stdin).stdout


def complaints(*command: str) -> str:
    """What the command says on its standard error. Raises CommandError."""
    return _done(command, _COMMAND_SECONDS, None).stderr


def _done(
    command: tuple[str, ...], seconds: float, stdin: str | None
) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=seconds, cwd=REPOSITORY
        )
    except subprocess.TimeoutExpired as exc:
        raise CommandError(f"{' '.join(command)[:200]}: no end after {seconds:.0f} s") from exc
    if done.returncode:
        raise CommandError(f"{' '.join(command)[:200]}: {done.stderr.strip()[-2000:]}")
    return done


@dataclass(frozen=True)
class Counts:
    """What the warehouse holds and what its ledger says, as of one moment."""

    posts: int
    stored: int
    duplicates: int
    dead_lettered: int
    skipped: int
    dead_letters: int


@dataclass(frozen=True)
class Batch:
    """Posts on their way: `count` of them, their ids beginning with `prefix`."""

    prefix: str
    count: int
    pod: str


@dataclass(frozen=True)
class Platform:
    """The installed platform. Every wait has a deadline."""

    namespace: str = NAMESPACE
    first_minute: str = ""
    """Where the stretch of minutes of the posts made here begins."""

    def kubectl(
        self, *arguments: str, seconds: float = _COMMAND_SECONDS, stdin: str | None = None
    ) -> str:
        """What kubectl prints, in the platform's namespace."""
        return run("kubectl", "-n", self.namespace, *arguments, seconds=seconds, stdin=stdin)

    def helm(
        self, *arguments: str, seconds: float = _COMMAND_SECONDS, stdin: str | None = None
    ) -> str:
        """What helm prints, in the platform's namespace."""
        return run("helm", "-n", self.namespace, *arguments, seconds=seconds, stdin=stdin)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One object."""
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def find(self, kinds: str, selector: str = "") -> list[dict[str, Any]]:
        """All objects of these comma-separated kinds that match the selector."""
        chosen = ("-l", selector) if selector else ()
        found = json.loads(self.kubectl("get", kinds, *chosen, "-o", "json"))
        items: list[dict[str, Any]] = found["items"]
        return items

    def apply(self, manifest: dict[str, Any]) -> None:
        """Creates or changes one object."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Until the condition holds. A command that fails, as while a pod is away, is a no."""
        problem = ""

        def holds() -> bool:
            nonlocal problem
            try:
                return condition()
            except CommandError as exc:
                problem = str(exc)
                return False

        try:
            wait_until(holds, seconds, what, every=_POLL_SECONDS)
        except AssertionError as exc:
            raise AssertionError(f"{exc}. {problem}") from None

    def sql(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query, asked of the primary."""
        rows: list[dict[str, Any]] = json.loads(
            self.execute(f"SELECT coalesce(json_agg(q), '[]') FROM ({query}) q")
        )
        return rows

    def execute(self, *statements: str) -> str:
        """Runs the statements in one transaction, as the superuser, and gives what psql prints."""
        pod = self.pod(DATABASE)["metadata"]["name"]
        psql = ("psql", "-XqAt1", "-d", "moodstream", "-v", "ON_ERROR_STOP=1")
        return self.kubectl(
            "exec", "-i", pod, "-c", "postgres", "--", *psql, stdin=";\n".join(statements)
        )

    def pod(self, selector: str) -> dict[str, Any]:
        """A ready pod that matches the selector. Raises CommandError while there is none."""
        for pod in self.find("pods", selector):
            if is_ready(pod):
                return pod
        raise CommandError(f"no ready pod matches {selector}")

    @contextmanager
    def forwarded(self, service: str, port: int) -> Iterator[str]:
        """The address of a Service's port, reachable from here for a while."""
        command = ["kubectl", "-n", self.namespace, "port-forward", f"service/{service}"]
        with subprocess.Popen(
            [*command, f":{port}", "--pod-running-timeout=60s"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as forwarding:
            try:
                assert forwarding.stdout is not None
                said = forwarding.stdout.readline()
                match = re.search(r"127\.0\.0\.1:(\d+)", said)
                if match is None:
                    raise CommandError(f"{' '.join(command)}: {said}")
                yield f"http://127.0.0.1:{match[1]}"
            finally:
                forwarding.terminate()

    def start(self, like: str, script: str, *arguments: str, labels: dict[str, str]) -> str:
        """Starts a pod that runs one of the scripts in `inside` with the image, settings and
        secrets of a Deployment, or of the CronJob cronjob/NAME, but with labels of its own. Gives
        its name.
        """
        spec = self._spec_like(like)
        container = spec["containers"][0]
        container["command"] = ["python", "-c", (_INSIDE / script).read_text(), *arguments]
        return self._create(spec, labels)

    def finish(self, pod: str, seconds: float) -> str:
        """Waits until a pod has done its work, removes it, and gives its log."""
        phase = ""

        def ended() -> bool:
            nonlocal phase
            phase = self.kubectl("get", "pod", pod, "-o", "jsonpath={.status.phase}")
            return phase in ("Succeeded", "Failed")

        self.wait(ended, seconds, f"the end of pod {pod}")
        log = self.kubectl("logs", pod, "--all-containers")
        assert phase == "Succeeded", f"pod {pod} has failed:\n{log[-4000:]}"
        self.kubectl("delete", "pod", pod)
        return log

    def run_job(self, cron_job: str, seconds: float) -> str:
        """Runs a CronJob's Job now, waits until it has done its work, and gives its log."""
        job = f"e2e-{uuid4().hex[:10]}"
        self.kubectl("create", "job", job, f"--from=cronjob/{cron_job}")
        labels = (f"{name}={value}" for name, value in OWNED.items())
        self.kubectl("label", "--overwrite", "job", job, *labels)
        ended: dict[str, str] = {}

        def has_ended() -> bool:
            nonlocal ended
            conditions = self.get("job", job).get("status", {}).get("conditions", ())
            ended = {condition["type"]: condition["status"] for condition in conditions}
            return "True" in (ended.get("Complete"), ended.get("Failed"))

        self.wait(has_ended, seconds, f"the end of Job {job}")
        of_job = f"batch.kubernetes.io/job-name={job}"
        log = self.kubectl("logs", "--selector", of_job, "--all-containers", "--tail=-1")
        assert ended.get("Complete") == "True", f"Job {job} has failed:\n{log[-4000:]}"
        return log

    def produce(self, count: int, rate: float = 0) -> Batch:
        """Starts a producer of our own that publishes so many posts, at so many a second; 0 is as
        fast as it goes.
        """
        prefix = f"e2e-{uuid4().hex[:10]}"
        spec = self._spec_like("moodstream-producer")
        container = spec["containers"][0]
        posts = "/e2e/posts.jsonl"
        container["volumeMounts"].append({"name": "e2e", "mountPath": "/e2e"})
        spec["volumes"].append({"name": "e2e", "emptyDir": {}})
        written = (posts, prefix, str(count), self.first_minute, str(STRETCH_MINUTES))
        spec["initContainers"] = [
            {
                **container,
                "name": "write-posts",
                "command": ["python", "-c", (_INSIDE / "write_posts.py").read_text(), *written],
            }
        ]
        container["command"] = ["python", "-m", "services.producer"]
        settings = {
            "MOODSTREAM_PRODUCER_SOURCE": "replay",
            "MOODSTREAM_PRODUCER_TOPICS": "",
            "MOODSTREAM_REPLAY_PATH": posts,
            "MOODSTREAM_REPLAY_RATE": str(rate),
            "MOODSTREAM_REPLAY_LOOP": "false",
        }
        kept = [variable for variable in container["env"] if variable["name"] not in settings]
        container["env"] = kept + [{"name": name, "value": settings[name]} for name in settings]
        pod = self._create(spec, WAY_OUT | client_of("kafka"))
        return Batch(prefix, count, pod)

    @contextmanager
    def upgraded(self, release: str, values: dict[str, Any]) -> Iterator[None]:
        """A release with some values changed, for a while."""
        [found] = json.loads(self.helm("list", "--filter", f"^{release}$", "-o", "json"))
        chart = str(REPOSITORY / "charts" / release)
        self.helm("upgrade", release, chart, "--reuse-values", "-f", "-", stdin=json.dumps(values))
        try:
            self._wait_for_rollouts()
            yield
        finally:
            self.helm("rollback", release, found["revision"])
            self._wait_for_rollouts()

    def _wait_for_rollouts(self) -> None:
        # Not helm's --wait, which is content while a Deployment may have one pod less.
        self.kubectl(
            "rollout", "status", "deployment", "-l", "app.kubernetes.io/part-of=moodstream",
            f"--timeout={_ROLLOUT_SECONDS:.0f}s", seconds=_ROLLOUT_SECONDS + 10,
        )  # fmt: skip

    def rows(self, batch: Batch) -> int:
        """How many posts of the batch are stored."""
        [row] = self.sql(
            "SELECT count(*) AS rows FROM posts "
            f"WHERE source = '{SOURCE}' AND starts_with(id, '{batch.prefix}-')"
        )
        return int(row["rows"])

    def wait_for_rows(self, batch: Batch, count: int, seconds: float) -> None:
        """Until at least so many posts of the batch are stored."""
        self.wait(
            lambda: self.rows(batch) >= count, seconds, f"{count} rows of batch {batch.prefix}"
        )

    def counts(self) -> Counts:
        """As of one moment."""
        [row] = self.sql(
            "SELECT (SELECT count(*) FROM posts) AS posts,"
            " (SELECT count(*) FROM dead_letters) AS dead_letters,"
            " coalesce(sum(stored), 0) AS stored, coalesce(sum(duplicates), 0) AS duplicates,"
            " coalesce(sum(dead_lettered), 0) AS dead_lettered,"
            " coalesce(sum(skipped), 0) AS skipped FROM kafka_offsets"
        )
        return Counts(**{name: int(value) for name, value in row.items()})

    def assert_reconciled(self, before: Counts, *batches: Batch, broken: int = 0) -> None:
        """Every post of the batches is stored once and counted once, and nothing else happened to
        any record since `before`, except that so many broken ones became dead letters.
        """
        after = self.counts()

        for batch in batches:
            [rolled] = self.sql(
                "SELECT coalesce(sum(posts), 0) AS posts, coalesce(sum(unscored), 0) AS unscored "
                f"FROM rollup_minute WHERE topic = '{batch.prefix}'"
            )
            assert self.rows(batch) == batch.count
            assert rolled == {"posts": batch.count, "unscored": 0}
        assert self.sql("SELECT * FROM rollup_errors") == []
        assert after.posts - before.posts == after.stored - before.stored
        assert after.skipped == before.skipped
        assert after.dead_lettered - before.dead_lettered == broken
        assert after.dead_letters - before.dead_letters == broken

    def secrets(self) -> dict[str, str]:
        """What must stay secret: decoded values by `name/key`."""
        return {
            f"{secret['metadata']['name']}/{key}": base64.b64decode(value).decode()
            for secret in self.find("secrets")
            if not secret["type"].startswith("helm.sh/")
            for key, value in secret.get("data", {}).items()
            if _SECRET_KEY.search(key)
        }

    def remove_traces(self) -> None:
        """Removes what these tests have made: objects, rules, posts and their rollups. The ledger
        and the dead letters are history and stay.
        """
        owned = ",".join(f"{name}={value}" for name, value in OWNED.items())
        self.kubectl(
            "delete",
            "pods,jobs,networkpolicies,services,secrets",
            "-l",
            owned,
            "--grace-period=1",
            "--wait",
            seconds=120,
        )
        self.execute(
            "DELETE FROM rollup_minute WHERE minute IN (SELECT date_trunc('minute', created_at)"
            f" FROM posts WHERE source = '{SOURCE}')",
            f"DELETE FROM shadow_predictions WHERE source = '{SOURCE}'",
            f"DELETE FROM posts WHERE source = '{SOURCE}'",
            f"DELETE FROM rules WHERE starts_with(name, '{SOURCE}-')",
            f"DELETE FROM alerts WHERE starts_with(rule, '{SOURCE}-')",
            f"DELETE FROM deletion_notices WHERE source = '{SOURCE}' AND applied_at IS NOT NULL",
        )

    def allow_way_out(self) -> None:
        """Lets pods labelled WAY_OUT open connections to anywhere."""
        self.apply(
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": "e2e-egress", "labels": OWNED},
                "spec": {
                    "podSelector": {"matchLabels": WAY_OUT},
                    "policyTypes": ["Egress"],
                    "egress": [{}],
                },
            }
        )

    def free_stretch(self) -> str:
        """The first minute of a stretch in the last week in which there are no posts."""
        stretch = f"interval '{STRETCH_MINUTES} minutes'"
        rows = self.sql(
            "SELECT start FROM generate_series(date_trunc('minute', now()) - interval '6 days',"
            f" now() - interval '1 hour', {stretch}) AS start"
            " WHERE NOT EXISTS (SELECT FROM rollup_minute"
            f" WHERE minute >= start AND minute < start + {stretch}) ORDER BY start LIMIT 1"
        )
        assert rows, "every ten minutes of the last six days have posts of others"
        return str(rows[0]["start"])

    def _spec_like(self, like: str) -> dict[str, Any]:
        kind, _, name = like.rpartition("/")
        found = self.get(kind or "deployment", name)["spec"]
        if kind == "cronjob":
            found = found["jobTemplate"]["spec"]
        spec: dict[str, Any] = found["template"]["spec"]
        container = {
            name: value
            for name, value in spec["containers"][0].items()
            if name in _KEPT_OF_CONTAINER
        }
        container["resources"] = {"requests": {"cpu": "10m", "memory": "128Mi"}}
        return {name: spec[name] for name in _KEPT_OF_POD if name in spec} | {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "containers": [container],
            "volumes": [
                # A volume that only one node may mount belongs to the Deployment.
                {"name": volume["name"], "emptyDir": {}}
                if "persistentVolumeClaim" in volume
                else volume
                for volume in spec["volumes"]
            ],
            "restartPolicy": "Never",
            "activeDeadlineSeconds": _POD_SECONDS,
            "terminationGracePeriodSeconds": 1,
        }

    def _create(self, spec: dict[str, Any], labels: dict[str, str]) -> str:
        name = f"e2e-{uuid4().hex[:10]}"
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": OWNED | labels},
                "spec": spec,
            }
        )
        return name


_SECRET_KEY: Final = re.compile(
    r"password|secret_access_key|secret-access-key|author_key|(viewer|editor)_token|webhook_secret"
    r"|channels\.yaml|jaas|pgpass|uri|\.key$",
    re.IGNORECASE,
)

CONSUMER: Final = "app.kubernetes.io/component=consumer,app.kubernetes.io/part-of=moodstream"
DATABASE: Final = "cnpg.io/cluster=warehouse,cnpg.io/instanceRole=primary"
BROKER: Final = "strimzi.io/cluster=moodstream,strimzi.io/broker-role=true"
PREDICTOR: Final = "serving.kserve.io/inferenceservice=sentiment"


def client_of(*destinations: str) -> dict[str, str]:
    """The labels by which a pod may reach these destinations."""
    return {f"moodstream.io/{destination}-client": "true" for destination in destinations}


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether the pod works and is to go on working."""
    return "deletionTimestamp" not in pod["metadata"] and any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod["status"].get("conditions", ())
    )
