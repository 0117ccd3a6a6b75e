"""What is wrong with a platform, and what to do about it. Called by the command line."""

from collections.abc import Iterator

from services.cluster import charts, credentials, helm, kube, operators, parts, preflight, up
from services.cluster.errors import ClusterError
from services.cluster.kube import Kube
from services.cluster.options import NAMESPACE, OperatorsFrom, Options
from services.cluster.preflight import Check


def run(options: Options) -> Iterator[Check]:
    """The preflight's checks, then those of a platform that should be up."""
    failed = False
    for check in preflight.run(options):
        failed = failed or not check.well
        yield check
    cluster, check = preflight.connect(options)
    if cluster is None:
        if not failed:
            yield Check("platform", "there is no cluster yet", "make cluster-up")
        return
    try:
        yield from _platform(cluster, options)
    except ClusterError as exc:
        yield Check("platform", str(exc), "make status")


def _platform(cluster: Kube, options: Options) -> Iterator[Check]:
    # Those that are present have been asked already.
    ours = options.operators is OperatorsFrom.INSTALL
    for operator in operators.needed(options.profile) if ours else ():
        problem = operators.problem(cluster, operator)
        fix = f"kubectl --context {cluster.context} --namespace {operator.namespace} get pods"
        yield Check(f"{operator.name} webhook", problem or "answers", fix if problem else None)
    absent = credentials.missing(cluster)
    detail = f"missing: {', '.join(absent)}" if absent else "all there"
    yield Check("secrets", detail, "make cluster-up" if absent else None)
    releases = helm.installed(cluster, NAMESPACE)
    for chart in charts.ORDER:
        state = releases.get(chart, "not installed")
        yield Check(f"chart {chart}", state, None if state == "deployed" else "make cluster-up")
    for part in parts.all_parts(cluster):
        scope = f"kubectl --context {cluster.context} --namespace {NAMESPACE}"
        fix = f"make logs, or {scope} describe pods"
        yield Check(part.name, part.waiting_for or "ready", None if part.ready else fix)
    for name, job in parts.failed_runs(cluster).items():
        fix = f"kubectl --context {cluster.context} --namespace {NAMESPACE} logs job/{job}"
        yield Check(f"job {name}", f"its newest run, {job}, has failed", fix)
    silent = up.silent_predictor(cluster)
    fix = "make status: has the champion a version, and is it served?"
    yield Check("smoke prediction", silent or "answers", fix if silent else None)
    autoscaler = cluster.find(kube.SCALED_OBJECTS, "moodstream-consumer")
    if autoscaler is not None:
        ready = kube.condition(autoscaler, "Ready") == "True"
        fix = f"kubectl --context {cluster.context} -n {NAMESPACE} describe scaledobject"
        yield Check(
            "autoscaler", "ready" if ready else kube.why(autoscaler), None if ready else fix
        )
