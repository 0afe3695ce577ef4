"""The HTTP side of a node, built from its configuration: access control, pages, the Worker, and the door
itself.

`Node` calls these functions once, while it starts. Each returns a part that `node.py` then connects to the
owners and the gateway; nothing here runs per request.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from functools import cache

from perdure.api.access.guard import Access
from perdure.api.access.origins import Origins
from perdure.api.access.quotas import Quotas
from perdure.api.access.ticket_page import ticket_page
from perdure.api.access.tickets import Tickets
from perdure.api.admin.page import admin_page
from perdure.api.admin.partition_views import PartitionViews
from perdure.api.admin.projections import ProjectionViews
from perdure.api.door.async_commands import commands_page
from perdure.api.door.http import HttpDoor
from perdure.api.gateway import Gateway
from perdure.api.openapi.mounted import document_pages
from perdure.api.pages import Page, PageRequest, Pages, nothing_behind, only, single
from perdure.api.problems import Problem
from perdure.api.protocol.authenticated import AuthenticatedProtocol, AuthenticatedSocketProtocol
from perdure.api.protocol.fast_path import FastPathProtocol
from perdure.api.protocol.http import HttpProtocol
from perdure.api.protocol.logged import LoggedAuthenticatedProtocol, LoggedProtocol
from perdure.api.protocol.websocket import SocketProtocol
from perdure.api.sockets.registry import SocketRegistry
from perdure.api.worker.worker import Worker
from perdure.objects.registry import Registry
from perdure.schemas.config import Config
from perdure.schemas.errors import ConfigError
from perdure.streams.opening import new_uuid
from perdure.streams.owner.owner import Owner
from perdure.streams.snapshots.service import Snapshots
from perdure.streams.teardown import Closing

_JSON = [(b"content-type", b"application/json")]
_METRICS = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]


async def access_for(config: Config, opened: Closing, *, has_worker: bool) -> Access | None:
    """The access control that a configuration asks for; None if it has neither tokens nor an issuer.

    What has to be closed with the node is pushed onto `opened`. Raises `ConfigError`.
    """
    if not config.guarded:
        return None
    issuer = None
    if config.jwt is not None:
        try:
            from perdure.api.access.jwks import keyring_of  # an extra: installed only where JWTs are used
            from perdure.api.access.jwts import Verifier
        except ImportError as error:
            raise ConfigError(
                "[jwt] needs PyJWT, which is not installed: pip install 'PyJWT[crypto]>=2.10,<3'"
            ) from error
        keyring = await keyring_of(config.jwt, time.monotonic)
        opened.push("the keys of [jwt]", keyring.close)
        issuer = Verifier(config.jwt, keyring, time.time)
    return Access(
        config.tokens,
        issuer,
        Quotas(config.quotas),
        Tickets(secrets.token_bytes(32), new_uuid),
        clock_s=time.time,
        open_objects=has_worker and config.expose,
    )


def door_for(
    config: Config,
    registry: Registry,
    gateway: Gateway,
    *,
    pages: Pages,
    worker: Worker | None,
    access: Access | None,
) -> HttpDoor:
    """The HTTP door of an app.

    Args:
        config: its limits, its allowed hosts and origins, and whether objects are exposed beside a Worker.
        registry: the app's classes.
        gateway: the node's gateway, to which commands are submitted.
        pages: perdure's own pages, by the first part of their path.
        worker: the app's Worker; None if it has none.
        access: the access control; None if all requests are allowed.
    """
    return HttpDoor(
        gateway,
        registry,
        body_bytes=config.limits.body_bytes,
        pages=pages,
        worker=worker,
        exposed=config.expose,
        access=access,
        origins=Origins.of(config, has_worker=worker is not None),
    )


def protocol_for(
    door: HttpDoor, sockets: SocketRegistry, access: Access | None, *, logs: bool = False
) -> type[HttpProtocol]:
    """The protocol of connections to `door`.

    Args:
        door: the HTTP door of the app.
        sockets: the node's WebSockets.
        access: the access control; without it no credentials are checked.
        logs: True to log each request.
    """
    door.logs = logs
    if access is None:
        plain = LoggedProtocol if logs else FastPathProtocol
        return plain.to(door, SocketProtocol.to(door, sockets))
    websocket = AuthenticatedSocketProtocol.to(door, sockets, access=access)
    guarded = LoggedAuthenticatedProtocol if logs else AuthenticatedProtocol
    return guarded.to(door, websocket, access=access)


def pages_for(
    config: Config,
    registry: Registry,
    gateway: Gateway,
    owners: Sequence[Owner],
    *,
    access: Access | None,
    has_worker: bool,
    dev: bool,
    ready: Callable[[], Problem],
    metrics: Callable[[], bytes],
    snapshots: Snapshots | None = None,
) -> Pages:
    """perdure's own pages, by the first part of their path.

    Args:
        config: the app's configuration; it decides whether administration is there.
        registry: the app's classes, for the documents and for administration.
        gateway: acts of administration are appended by it.
        owners: the owners of all partitions, in order.
        access: the access control, with which there are tickets; None if all requests are allowed.
        has_worker: True if the app has a Worker in front of its objects.
        dev: True for `perdure dev`, which opens administration behind a Worker too.
        ready: the response of /readyz.
        metrics: the text of /metrics.
    """
    projections = ProjectionViews(owners, registry.projections, config)
    pages = dict(
        (
            single("livez", lambda: (200, _JSON, b'{"status":"alive"}')),
            single("readyz", ready),
            _metrics_page(metrics, projections),
            *document_pages(
                config,
                registry,
                has_worker=has_worker,
                topics=owners[0].log.generation if config.kafka_brokers else "",
            ),
        )
    )
    views = PartitionViews(
        gateway, owners, registry
    )  # other nodes may request some, also where pages are closed
    if access is not None or not config.is_closed(has_worker, dev=dev):
        pages["commands"] = commands_page(views, owners)
        pages["admin"] = admin_page(gateway, owners, views, registry, config, snapshots, projections)
        pages["console"] = _console(pages["admin"], gateway, config.name, guarded=access is not None)
    if access is not None:
        pages["ticket"] = ticket_page(access, registry)
    return pages


def _console(admin: Page, gateway: Gateway, app: str, *, guarded: bool) -> Page:
    """The page /console; its templates are loaded by the first request."""

    @cache
    def console() -> Page:
        from perdure.api.console.page import console_page

        return console_page(admin, gateway, app, guarded=guarded)

    async def page(request: PageRequest) -> Problem:
        return await console()(request)

    return page


def _metrics_page(metrics: Callable[[], bytes], projections: ProjectionViews) -> tuple[str, Page]:
    """The page /metrics: the node's counts, and how far its projections are."""

    async def page(request: PageRequest) -> Problem:
        if request.parts:
            raise nothing_behind("metrics", request)
        only(request, "GET")
        return 200, _METRICS, metrics() + await projections.exposition()

    return "metrics", page
