"""Which addresses a download may go to: names are resolved once, checked, and connected to by address."""

from __future__ import annotations

import ipaddress
import socket
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

PORTS: Final = {"http": 80, "https": 443}
_PUBLIC_V6: Final = ipaddress.IPv6Network("2000::/3")
_TUNNELS: Final = tuple(map(ipaddress.ip_network, ("192.88.99.0/24", "2002::/16", "2001::/32")))
"""Inside the public ranges, but their packets end at an IPv4 address that they carry (6to4, Teredo)."""


class RefusedError(Exception):
    """An address that is not fetched. reason: the ledger's word for it; detail: for people."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Target:
    """A url taken apart. host: lower case, punycode, without brackets; path: with query, escaped for a request line."""

    url: str
    scheme: str
    host: str
    port: int
    path: str

    @property
    def name(self) -> str:
        """`host:port`, as `allow_hosts` names it."""
        return f"{self.host}:{self.port}"


def parse(url: str) -> Target:
    """Take a url apart. Raises RefusedError("bad_scheme") or ("bad_url")."""
    try:
        parts = urllib.parse.urlsplit(url.strip())
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError as error:
        raise RefusedError("bad_url", str(error)) from None
    if scheme not in PORTS:
        raise RefusedError("bad_scheme", scheme or "none")
    if not host or parts.username is not None or parts.password is not None:
        raise RefusedError("bad_url", "no host" if not host else "names a user")
    try:
        host = host.rstrip(".").encode("idna").decode().lower() if not host.isascii() else host.rstrip(".").lower()
    except UnicodeError:
        raise RefusedError("bad_url", "host is no name") from None
    if not host or any(ord(char) < 33 or char in "/\\@#?" for char in host):
        raise RefusedError("bad_url", "host is no name")
    path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        path += "?" + urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]")
    return Target(url, scheme, host, PORTS[scheme] if port is None else port, path)


def is_public(address: str) -> bool:
    """Whether an IPv4 or IPv6 address is a host of the public internet: not private, local, multicast or a tunnel."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip not in _PUBLIC_V6:
            return False
    if any(ip.version == tunnel.version and ip in tunnel for tunnel in _TUNNELS):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def resolve(target: Target, allow_hosts: frozenset[str], hosts: Mapping[str, str]) -> tuple[str, int]:
    """Return the address and port to connect to.

    allow_hosts: `host:port` whose address is not checked. hosts: `host:port` → `address:port` in place of a look-up.
    Raises RefusedError("dns") where the name has no address, ("dns_busy") where that may pass, and
    ("refused_address") unless *every* address of the name is public: one that is not would be somebody's trick.
    """
    if target.name in hosts:
        address, _, port = hosts[target.name].rpartition(":")
        found, number = [address], int(port)
    else:
        found, number = _look_up(target), target.port
    if target.name not in allow_hosts:
        for address in found:
            if not is_public(address):
                raise RefusedError("refused_address", address)
    return found[0], number


def _look_up(target: Target) -> list[str]:
    try:
        infos = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        busy = error.errno == socket.EAI_AGAIN
        raise RefusedError("dns_busy" if busy else "dns", str(error.strerror)) from None
    except (UnicodeError, OSError) as error:
        raise RefusedError("dns", str(error)) from None
    return [str(info[4][0]) for info in infos]
