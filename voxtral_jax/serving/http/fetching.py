"""Fetches a reference from a URL, from hosts on a list and public addresses only."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import httpx2

from voxtral_jax.errors import AudioError, RequestError

MOST_REDIRECTS = 3
PORTS = {"https": 443, "http": 80}
REDIRECTS = (301, 302, 303, 307, 308)

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to IP addresses."""


async def resolve_host(host: str, port: int) -> list[str]:
    """The addresses that the system's resolver knows.

    Raises:
        OSError: there are none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def is_public(address: str) -> bool:
    """Whether an address belongs to the open internet, also where IPv6 wraps an IPv4 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None:
            return is_public(str(inner))
        if ip in ipaddress.ip_network("64:ff9b::/96"):
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast


@dataclass(frozen=True)
class Fetcher:
    """Fetches files of limited size.

    The address that is connected to is the one that was checked, so that a name server cannot
    answer differently the second time. The host's name stays in the TLS handshake and the request.

    Attributes:
        hosts: "example.org" for the usual ports, or "example.org:8443"; none turns fetching off.
        largest: bytes.
        seconds: for all of it.
        resolve: finds addresses.
        transport: makes the connections; httpx's own by default.
    """

    hosts: tuple[str, ...]
    largest: int
    seconds: float
    resolve: Resolve = resolve_host
    transport: httpx2.AsyncBaseTransport | None = None

    async def __call__(self, url: str) -> bytes:
        """The file's bytes.

        Raises:
            RequestError: fetching is off, or the URL leads to a host that is not allowed.
            AudioError: it cannot be fetched, or is too large.
        """
        if not self.hosts:
            raise RequestError(
                "this server fetches no references from URLs; send the recording itself, as an "
                "upload or a data URI"
            )
        try:
            async with (
                asyncio.timeout(self.seconds),
                # A proxy would look up the host by itself.
                httpx2.AsyncClient(transport=self.transport, trust_env=False) as client,
            ):
                for _ in range(MOST_REDIRECTS + 1):
                    answer = await self._get(client, url)
                    if isinstance(answer, bytes):
                        return answer
                    url = answer
        except TimeoutError:
            raise AudioError(f"{url} did not arrive within {self.seconds:.0f} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise AudioError(f"{url} cannot be fetched: {type(error).__name__}") from None
        raise AudioError(f"{url} redirects more than {MOST_REDIRECTS} times")

    async def _get(self, client: httpx2.AsyncClient, url: str) -> bytes | str:
        """The body, or where it redirects to."""
        host, entry, address = await self._checked(url)
        # Bodies come as they are: a compressed one could expand beyond the limit.
        headers = {"Host": entry, "Accept-Encoding": "identity"}
        target = httpx2.URL(url).copy_with(host=address)
        request = client.build_request(
            "GET", target, headers=headers, extensions={"sni_hostname": host}
        )
        response = await client.send(request, stream=True, follow_redirects=False)
        try:
            if response.status_code in REDIRECTS and "location" in response.headers:
                return _joined(url, response.headers["location"])
            if response.status_code != 200:
                raise AudioError(f"{url} answers with status {response.status_code}")
            body = bytearray()
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > self.largest:
                    raise AudioError(f"{url} has more than {self.largest:,} bytes")
            return bytes(body)
        finally:
            await response.aclose()

    async def _checked(self, url: str) -> tuple[str, str, str]:
        """Host, its entry on the list, and the address to connect to."""
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").encode("idna").decode().lower()
            port = parts.port or PORTS.get(parts.scheme, 0)
        except ValueError:
            raise _no_url(url) from None
        if parts.scheme not in PORTS or not host or parts.username is not None:
            raise RequestError(f"{url[:200]!r}: a reference's URL starts with https://HOST")
        entry = host if port == PORTS[parts.scheme] else f"{host}:{port}"
        if entry not in self.hosts:
            raise RequestError(f"references may not be fetched from {entry}")
        addresses = await self.resolve(host, port)
        if not addresses or not all(map(is_public, addresses)):
            raise RequestError(f"{entry} has an address that is not public")
        return host, entry, addresses[0]


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise _no_url(location) from None


def _no_url(text: str) -> RequestError:
    return RequestError(f"{text[:200]!r} is not a URL")
