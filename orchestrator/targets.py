"""Where a webhook may go: an address of the internet, checked when it is given and again when it is connected to.

What is connected to is the address that was checked, so a name that changes its mind in between gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

LONGEST_URL = 2000
PORTS = {"http": 80, "https": 443}
# IPv6 addresses that a translator on the way turns into IPv4 ones, private ones too.
TRANSLATED = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Target(NamedTuple):
    scheme: str  # http | https
    host: str  # a name, or an address without brackets
    port: int
    path: str  # with the query

    @property
    def authority(self) -> str:
        """The `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def target_of(url: str) -> Target:
    """The parts of an address. Raises ValueError that says what is wrong with it."""
    if len(url) > LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"is no url: at most {LONGEST_URL} printable ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"is no url: {error}") from error
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError("is no url that can be told: give https://host/path")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must hold no user name or password: it is shown to everybody who can read the job")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, parts.hostname, port or PORTS[parts.scheme], path)


def check_given(url: str, *, private: bool) -> Target:
    """What can be told without asking anybody: form, addresses in numbers, names that are always this machine's.

    private: addresses that are not the internet's are allowed. Raises ValueError.
    """
    target = target_of(url)
    if private:
        return target
    name = target.host.rstrip(".").lower()
    if name == "localhost" or name.endswith((".localhost", ".local", ".internal")):
        raise ValueError(f"{target.host} is no host of the internet")
    try:  # also the spellings of old, as 127.1 and 0x7f000001
        numeric = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return target  # a name: asked for when it is connected to
    _check_public(target, [ipaddress.ip_address(entry[4][0]) for entry in numeric])
    return target


def addresses(target: Target, *, private: bool) -> list[str]:
    """Where the host of a target is, by DNS, now. Raises ValueError if any of it may not be connected to, OSError."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise ValueError(f"{target.host} is no name of a host") from error
    ips = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not private:
        _check_public(target, ips)
    return [str(entry[4][0]) for entry in found]


def is_public(address: Address) -> bool:
    """True for an address of one host of the internet."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in network for network in TRANSLATED) or address.is_site_local:
            return False
    special = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
    return address.is_global and not special and not address.is_link_local


def _check_public(target: Target, ips: list[Address]) -> None:
    for address in ips:
        if not is_public(address):
            raise ValueError(f"{target.host} is at {address}, which is no address of the internet")
