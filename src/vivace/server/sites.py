"""Which sites' requests are answered: the Host, Origin and Sec-Fetch-Site headers, and CORS.

A page of any site can make the browser of a visitor send requests to this machine. Its name may
even resolve to this machine (DNS rebinding): then the Host header carries that name. The Host check
refuses that, the check of origins refuses the rest; a request that is no page's carries neither
`Origin` nor `Sec-Fetch-Site` and passes.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.types import Message, Scope, Send

from vivace.errors import BadSettings
from vivace.server.errors import BadHost, BadHttp, CrossSite, Header, NotJson, WrongHost

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST: Final = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_]([a-z0-9._-]{0,252}))(?::([0-9]{1,5}))?")
_READ: Final = frozenset({b"host", b"origin", b"sec-fetch-site", b"content-type"})
"""The headers that are read here; none may come twice."""
_JSON: Final = b"application/json"
_OWN_SITES: Final = (b"", b"same-origin", b"none")
"""Values of Sec-Fetch-Site of requests that no page of another site sent."""
_KEPT: Final = 64
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_PREFLIGHT_SECONDS: Final = b"600"
_EXPOSED: Final = b"retry-after, retry-after-ms, x-should-retry"


class HostCheck:
    """Refuses a Host header that is malformed or carries another name than this server's.

    Args:
        names: allowed names and addresses, in lower case; None allows any.
        local: also allow every IP address and every name without a dot, which no site of the
            internet can have.
    """

    def __init__(self, names: Iterable[str] | None = None, *, local: bool = False) -> None:
        self._names = None if names is None else frozenset(names)
        self._local = local

    def __call__(self, value: bytes) -> None:
        """Check the header's value.

        Raises:
            BadHost: it is no host name or address with an optional port.
            WrongHost: it is not this server's.
        """
        text = value.decode("latin-1").lower()
        match = _HOST.fullmatch(text)
        if match is None or int(match[3] or 0) > 65535:
            raise _bad_host(f"the Host header {text[:100]!a} is no name or address with a port")
        name = match[1]
        if name.startswith("["):
            try:
                name = str(IPv6Address(name[1:-1]))
            except ValueError:
                raise _bad_host(f"the Host header has no IPv6 address: {name!a}") from None
        if self._names is None or name in self._names or (self._local and _is_local(name)):
            return
        raise WrongHost(
            f"this server is not called {name!a}",
            fix="Use the address it printed, or add the name to server.hosts",
        )


def hosts_of(named: str, address: str) -> HostCheck:
    """The check of a server that listens on an address, with `server.hosts`."""
    names = {name.strip().lower() for name in named.split(",") if name.strip()}
    if "*" in names:
        return HostCheck()
    own = LOOPBACK | names | {address}
    if names or ip_address(address.partition("%")[0]).is_loopback:
        return HostCheck(own)
    machine = socket.gethostname().lower()
    return HostCheck(own | {machine, f"{machine}.local"}, local=True)


def _bad_host(what: str) -> BadHost:
    return BadHost(what, fix="Send one Host header, as `localhost:8765`")


def _is_local(name: str) -> bool:
    if "." not in name:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class CorsHeaders:
    """The headers with which a page of a listed origin may read a response."""

    headers: Sequence[Header]
    preflight: Sequence[Header] | None
    """Where the request only asks whether the real one would be allowed: further headers of its
    answer."""

    def sender(self, send: Send) -> Send:
        """`send` that adds the headers to a response."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *self.headers]}
            await send(message)

        return with_headers


class SiteCheck:
    """Refuses requests of other sites' pages, and bodies that are not JSON where JSON is read.

    Args:
        origins: of pages that may call the server, as `https://docs.example`.
    """

    def __init__(self, host: HostCheck, origins: Iterable[str] = ()) -> None:
        self._check_host = host
        self._origins = frozenset(map(str.encode, origins))
        self._known_hosts: set[bytes] = set()
        """Values that have passed, a few."""

    def __call__(self, scope: Scope, *, json: bool) -> CorsHeaders | None:
        """Check a request; what lets a page of a listed origin read the response, else None.

        Args:
            json: the route reads a JSON body.

        Raises:
            BadHost, WrongHost: see `HostCheck`; the header is missing, or there are two.
            BadHttp: another header that is read here comes twice.
            CrossSite: a page of a site that is not listed sent it.
            NotJson: `json`, and the body is something else.
        """
        found: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in _READ:
                if name in found:
                    raise _twice(name)
                found[name] = value
        host = found.get(b"host")
        if host not in self._known_hosts:
            self._first_seen(host)
        origin = found.get(b"origin", b"")
        site = found.get(b"sec-fetch-site", b"")
        cors = None
        if origin or site not in _OWN_SITES:
            cors = self._check_page(scope, host or b"", origin, site)
        if json and (cors is None or cors.preflight is None):
            _check_json(found.get(b"content-type", b""))
        return cors

    def _first_seen(self, host: bytes | None) -> None:
        if host is None:
            raise _bad_host("there is no Host header")
        self._check_host(host)
        if len(self._known_hosts) < _KEPT:
            self._known_hosts.add(host)

    def _check_page(
        self, scope: Scope, host: bytes, origin: bytes, site: bytes
    ) -> CorsHeaders | None:
        if origin in self._origins:
            return CorsHeaders(*_cors(scope, origin))
        if site in _OWN_SITES and (not origin or _same(origin, host)):
            return None
        # following a link from elsewhere to a page of ours is no request of that page's script
        if (
            not origin
            and scope["method"] == "GET"
            and _header(scope, b"sec-fetch-mode") == (b"navigate")
        ):
            return None
        shown = ascii(origin[:100].decode("latin-1")) if origin else "another site"
        raise CrossSite(
            f"requests of web pages at {shown} are refused",
            fix="Add the page's origin to server.origins, as https://docs.example",
        )


def origins_of(named: str) -> list[str]:
    """The origins in `server.origins`.

    Raises:
        BadSettings: one is no origin.
    """
    origins = [origin.strip().lower() for origin in named.split(",") if origin.strip()]
    for origin in origins:
        try:
            parts = urlsplit(origin)
            good = parts.scheme and parts.hostname and origin == f"{parts.scheme}://{parts.netloc}"
        except ValueError:
            good = False
        if not good or "@" in origin or not origin.isascii():
            raise BadSettings(
                f"server.origins: {origin!r} is no origin",
                fix="Write it without a path, as https://docs.example or http://localhost:3000",
            )
    return origins


def _twice(name: bytes) -> BadHost | BadHttp:
    shown = name.decode("latin-1")
    if name == b"host":
        return _bad_host("there is more than one Host header")
    return BadHttp(f"there is more than one {shown} header", fix="Send one")


def _check_json(content_type: bytes) -> None:
    if content_type == _JSON or content_type.partition(b";")[0].strip().lower() == _JSON:
        return
    shown = ascii(content_type[:100].decode("latin-1")) if content_type else "not given"
    raise NotJson(f"the body's Content-Type is {shown}", fix="Send Content-Type: application/json")


def _same(origin: bytes, host: bytes) -> bool:
    """Whether a page's origin has this server's host and port. The scheme may differ: a proxy in
    front of the server may take HTTPS."""
    scheme, _, address = origin.decode("latin-1").lower().partition("://")
    default = _DEFAULT_PORTS.get(scheme)
    if default is None:
        return False
    own = host.decode("latin-1").lower()
    return address.removesuffix(default) == own.removesuffix(default)


def _header(scope: Scope, wanted: bytes) -> bytes:
    found: bytes
    for name, found in scope["headers"]:
        if name == wanted:
            return found
    return b""


def _cors(scope: Scope, origin: bytes) -> tuple[list[Header], list[Header] | None]:
    headers = [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
    if scope["method"] != "OPTIONS" or not _header(scope, b"access-control-request-method"):
        return [*headers, (b"access-control-expose-headers", _EXPOSED)], None
    preflight = [
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-max-age", _PREFLIGHT_SECONDS),
    ]
    if asked := _header(scope, b"access-control-request-headers"):
        preflight.append((b"access-control-allow-headers", asked))
    if _header(scope, b"access-control-request-private-network") == b"true":
        preflight.append((b"access-control-allow-private-network", b"true"))
    return headers, preflight
