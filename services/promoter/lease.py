"""Which of several promoters acts: the one that holds a Lease of coordination.k8s.io/v1.

The client library's own election blocks its caller for ever, sleeps without end while the API
server is away, and never releases; so this follows client-go's:
https://github.com/kubernetes/client-go/blob/master/tools/leaderelection/leaderelection.go.
As there, clocks are not compared: a Lease has run out once it was seen unchanged for its duration.
"""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Event, Lock, Thread
from typing import Any, Final

from kubernetes import client
from kubernetes.client.exceptions import ConflictException, NotFoundException

from services.core.errors import TemporaryError
from services.promoter.cluster import REQUEST_SECONDS, connection, errors

log = logging.getLogger(__name__)

_LEASES: Final = ("coordination.k8s.io", "v1")
_PLURAL: Final = "leases"
_DURATION_SECONDS: Final = 15
"""How long others wait for a holder that has fallen silent."""
_RENEW_SECONDS: Final = 5.0
_DEADLINE_SECONDS: Final = 10.0
"""A holder that could not renew for so long stops acting, well before others may begin."""


class Lease:
    """One candidate for one Lease. While it holds it, a thread renews it, because a promoter may be
    busy for longer than a Lease lasts. Thread-safe.
    """

    def __init__(
        self,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`identity` is the candidate's alone; the same one may take its Lease up again at once."""
        self._resources = client.CustomObjectsApi(connection())
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._lock = Lock()
        self._renewed: float | None = None
        """When the last renewal was asked for; None: not held."""
        self._seen: tuple[dict[str, Any], float] | None = None
        """The Lease as last seen, and when it was first seen so."""
        self._stop: Event | None = None

    def held(self) -> bool:
        """Whether this candidate may act now; takes a Lease that is free. Ask before each act.

        Raises TemporaryError when that cannot be known, because the API server is away or says no.
        """
        with self._lock:
            if self._renewed is not None:
                if self._clock() - self._renewed < _DEADLINE_SECONDS:
                    return True
                self._renewed = None
            self._try()
            if self._renewed is not None and self._stop is None:
                self._stop = Event()
                Thread(target=self._keep, args=(self._stop,), name="lease", daemon=True).start()
            return self._renewed is not None

    def release(self) -> None:
        """Lets another candidate begin at once. If nobody can be told, the Lease runs out."""
        if self._stop is not None:
            self._stop.set()
        with self._lock:
            self._stop = None
            if self._renewed is None:
                return
            self._renewed = None
            try:
                lease = self._get()
                spec = lease.get("spec", {}) if lease else {}
                if lease and spec.get("holderIdentity") == self._identity:
                    freed = {"holderIdentity": "", "leaseDurationSeconds": 1}
                    self._put(lease | {"spec": spec | freed})
            except TemporaryError as exc:
                log.warning("lease.not_released", extra={"detail": str(exc)})

    def _keep(self, stop: Event) -> None:
        while not stop.wait(_RENEW_SECONDS):
            with self._lock:
                if stop.is_set() or self._renewed is None:
                    continue
                try:
                    self._try()
                except TemporaryError as exc:
                    log.warning("lease.not_renewed", extra={"detail": str(exc)})

    def _try(self) -> None:
        """Takes or renews the Lease if it is free or ours. The time counts from before the request,
        as others may see it renewed only later.
        """
        asked = self._clock()
        lease = self._get()
        if lease is None:
            created = {"metadata": {"name": self._name}, "spec": self._spec({})}
            self._renewed = asked if self._create(created) else None
            return
        spec = lease.get("spec", {})
        if self._seen is None or self._seen[0] != spec:
            self._seen = (dict(spec), asked)
        holder = spec.get("holderIdentity")
        silent = asked - self._seen[1]
        taken = holder not in (None, "", self._identity)
        if taken and silent < spec.get("leaseDurationSeconds", _DURATION_SECONDS):
            self._renewed = None
            return
        self._renewed = asked if self._put(lease | {"spec": self._spec(spec)}) else None

    def _spec(self, before: dict[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        renewed = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": _DURATION_SECONDS,
            "renewTime": now,
        }
        if before.get("holderIdentity") == self._identity:
            return before | renewed
        transitions = before.get("leaseTransitions", -1) + 1
        return before | renewed | {"acquireTime": now, "leaseTransitions": transitions}

    def _get(self) -> dict[str, Any] | None:
        with errors(f"Lease {self._name} cannot be read"):
            try:
                found: Any = self._resources.get_namespaced_custom_object(
                    *_LEASES,
                    self._namespace,
                    _PLURAL,
                    self._name,
                    _request_timeout=REQUEST_SECONDS,
                )
            except NotFoundException:
                return None
        return dict(found)

    def _create(self, lease: dict[str, Any]) -> bool:
        """Whether nobody else has created it first."""
        with errors(f"Lease {self._name} cannot be created"):
            try:
                self._resources.create_namespaced_custom_object(
                    *_LEASES, self._namespace, _PLURAL, lease, _request_timeout=REQUEST_SECONDS
                )
            except ConflictException:
                return False
        return True

    def _put(self, lease: dict[str, Any]) -> bool:
        """Whether nobody else has changed it since it was read: its resourceVersion is checked."""
        with errors(f"Lease {self._name} cannot be renewed"):
            try:
                self._resources.replace_namespaced_custom_object(
                    *_LEASES,
                    self._namespace,
                    _PLURAL,
                    self._name,
                    lease,
                    _request_timeout=REQUEST_SECONDS,
                )
            except (ConflictException, NotFoundException):
                return False
        return True
