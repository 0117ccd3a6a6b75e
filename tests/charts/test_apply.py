"""A real API server with the real CRDs takes everything that the charts render."""

from tests.apiserver import ApiServer
from tests.charts.rendering import Case, objects


def test_the_api_server_takes_every_object(case: Case, api_server: ApiServer) -> None:
    rendered = objects(case)
    with api_server.namespace() as namespace:
        complaints = {
            f"{item['kind']}/{item['metadata']['name']}": complaint
            for item in rendered
            for complaint in api_server.apply(item, namespace)
        }
        for item in {item["kind"]: item for item in rendered}.values():
            api_server.delete_all_like(item, namespace)

    assert complaints == {}


def test_the_api_server_tells_what_is_wrong(api_server: ApiServer) -> None:
    unknown = {"apiVersion": "kafka.strimzi.io/v1", "kind": "KafkaTopic"}
    spec = {"partitions": 1, "partition": 1}
    pod = {
        "metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    unsafe = {"selector": {"matchLabels": {"a": "b"}}, "template": pod}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment"}

    with api_server.namespace() as namespace:
        misspelt = api_server.apply({**unknown, "metadata": {"name": "t"}, "spec": spec}, namespace)
        warned = api_server.apply(
            {**deployment, "metadata": {"name": "d"}, "spec": unsafe}, namespace
        )

    assert "partition" in misspelt[0]
    assert "would violate PodSecurity" in warned[0]
