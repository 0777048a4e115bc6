"""Which addresses a webhook may go to, when it is given and when it is connected to."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest

from orchestrator.dispatch import outbound
from orchestrator.targets import addresses, check_given, is_public, target_of

PRIVATE = [
    "127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1",
    "::1", "::", "fe80::1", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("text", PRIVATE)
def test_addresses_that_are_not_the_internets_are_refused(text: str):
    assert not is_public(ipaddress.ip_address(text))
    host = f"[{text}]" if ":" in text else text
    with pytest.raises(ValueError, match="no address of the internet"):
        check_given(f"http://{host}/x", private=False)
    assert check_given(f"http://{host}/x", private=True).host == text.lower()


@pytest.mark.parametrize("text", PUBLIC)
def test_addresses_of_the_internet_are_taken(text: str):
    assert is_public(ipaddress.ip_address(text))
    check_given(f"https://[{text}]/" if ":" in text else f"https://{text}/", private=False)


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "LOCALHOST.", "a.localhost", "db.internal"]
)
def test_other_spellings_of_this_machine_are_refused(host: str):
    with pytest.raises(ValueError, match="internet"):
        check_given(f"http://{host}/", private=False)


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "//host", "ftp://host/", "file:///etc/passwd", "http://", "http:///x", "https://user@host/",
        "https://user:word@host/", "http://host:99999/", "http://host:x/", "http://[::1", "http://a b/", "http://h/\n",
        "http://ü.example/", "http://host/" + "x" * 2000, "javascript:alert(1)", "http://h/\r\nX: y",
    ],
)  # fmt: skip
def test_what_is_no_url_to_post_to_is_refused(url: str):
    with pytest.raises(ValueError, match=r"url|user name"):
        target_of(url)


def test_a_url_has_its_parts():
    assert target_of("https://Hooks.example/a?b=c#d")[:] == ("https", "hooks.example", 443, "/a?b=c")
    assert target_of("http://h:8080").authority == "h:8080"
    assert target_of("http://[::1]:80/").authority == "[::1]"


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
    """Names have these addresses, one after the other."""
    left = list(answers)
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *arguments: Any, **others: Any) -> Any:
        if host != "rebind.example":
            return real(host, port, *arguments, **others)
        return real(left.pop(0), port, *arguments, **others)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_a_name_is_looked_up_when_it_is_connected_to(monkeypatch: pytest.MonkeyPatch):
    check_given("http://rebind.example/", private=False)
    resolving(monkeypatch, "10.0.0.1", "8.8.8.8", "127.0.0.1")
    target = target_of("http://rebind.example/")
    with pytest.raises(ValueError, match=r"rebind.example is at 10.0.0.1"):
        addresses(target, private=False)
    assert addresses(target, private=False) == ["8.8.8.8"]
    assert addresses(target, private=True) == ["127.0.0.1"]


def test_a_name_that_changes_its_mind_is_asked_once(monkeypatch: pytest.MonkeyPatch):
    """What is connected to is the address that was checked, not another answer to the same question."""
    resolving(monkeypatch, "192.0.2.1", "127.0.0.1")
    connected: list[Any] = []

    def connect(address: Any, timeout: Any) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError("nobody")

    monkeypatch.setattr(socket, "create_connection", connect)
    outcome = outbound.post("http://rebind.example/", "d", b"{}", ["whsec_"], private=True)
    assert connected == [("192.0.2.1", 80)]
    assert "nobody" in str(outcome.error)


def test_a_name_that_leads_inside_is_not_connected_to(monkeypatch: pytest.MonkeyPatch):
    resolving(monkeypatch, "169.254.169.254")
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("it was connected to"))
    outcome = outbound.post("http://rebind.example/latest/meta-data", "d", b"{}", ["whsec_"], private=False)
    assert "169.254.169.254" in str(outcome.error)
