"""What the store's URL may say, and what its errors say."""

import ssl
from pathlib import Path

import pytest

from services.session.adapters.address import BadStoreUrl, Kind, Place, parse_address
from tests.certificates import Authority


@pytest.mark.parametrize(
    ("url", "kind", "places", "database"),
    [
        ("redis://h", Kind.SINGLE, [("h", 6379)], 0),
        ("redis://h:7000/3", Kind.SINGLE, [("h", 7000)], 3),
        ("redis://[::1]:7000?db=2", Kind.SINGLE, [("::1", 7000)], 2),
        ("unix:///run/redis.sock?db=4", Kind.SINGLE, [("/run/redis.sock", 0)], 4),
        ("redis+sentinel://a,b:7000/s/5", Kind.SENTINEL, [("a", 26379), ("b", 7000)], 5),
        ("redis+cluster://a,[::1]:7001", Kind.CLUSTER, [("a", 6379), ("::1", 7001)], 0),
        ("redis+cluster://a/0", Kind.CLUSTER, [("a", 6379)], 0),
    ],
)
def test_a_url_names_the_servers_and_the_database(
    url: str, kind: Kind, places: list[Place], database: int
) -> None:
    address = parse_address(url)
    assert address.kind is kind
    assert list(address.places) == places
    assert address.access.database == database
    assert address.access.tls is None


@pytest.mark.parametrize(
    ("credentials", "username", "password"),
    [("", "", ""), (":p%40w%2F@", "", "p@w/"), ("ann:p:w@", "ann", "p:w"), ("a@b:p@", "a@b", "p")],
)
def test_a_url_names_the_user(credentials: str, username: str, password: str) -> None:
    for url in (
        f"redis://{credentials}h/0",
        f"redis+cluster://{credentials}h,i",
        f"redis+sentinel://{credentials}h,i/s",
        f"unix://{credentials}/path",
    ):
        access = parse_address(url).access
        assert (access.username, access.password) == (username, password)


@pytest.mark.parametrize(
    "url", ["redis://h", "redis+cluster://h", "redis+sentinel://h/s", "unix:///h?db=1"]
)
def test_a_line_break_at_the_end_is_none_of_the_url(url: str) -> None:
    assert parse_address(f"{url}\n") == parse_address(url)


def test_the_sentinels_may_ask_for_a_password_of_their_own() -> None:
    url = "redis+sentinel://u:p@h/main?sentinel_username=s&sentinel_password=q"
    address = parse_address(url)
    assert address.service == "main"
    assert (address.sentinel_access.username, address.sentinel_access.password) == ("s", "q")
    assert (address.access.username, address.access.password) == ("u", "p")


@pytest.mark.parametrize(
    "url", ["rediss://h", "rediss+sentinel://h/s", "rediss+cluster://h", "rediss+cluster://h,i"]
)
def test_with_a_second_s_all_links_are_over_tls_and_checked(url: str) -> None:
    address = parse_address(url)
    assert address.access.tls is not None
    assert address.access.tls.verify_mode is ssl.CERT_REQUIRED
    assert address.access.tls.check_hostname
    if address.kind is Kind.SENTINEL:
        assert address.sentinel_access.tls is address.access.tls


def test_the_authority_the_certificate_and_the_checks_are_options(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "own")
    ours = authority.certify("client")
    options = (
        f"ssl_ca_certs={authority.file}&ssl_certfile={ours.certificate}&ssl_keyfile={ours.key}"
    )
    tls = parse_address(f"rediss://h?{options}").access.tls
    assert tls is not None
    assert len(tls.get_ca_certs()) == 1
    lax = parse_address("rediss://h?ssl_cert_reqs=none").access.tls
    assert lax is not None
    assert lax.verify_mode is ssl.CERT_NONE
    unnamed = parse_address("rediss://h?ssl_check_hostname=false").access.tls
    assert unnamed is not None
    assert (unnamed.check_hostname, unnamed.verify_mode) == (False, ssl.CERT_REQUIRED)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "unknown scheme"),
        ("localhost:6379", "unknown scheme"),
        ("http://h", r"unknown scheme: write one of redis://"),
        ("redis+cluster", "unknown scheme"),
        ("redis://", "host that cannot be read"),
        ("redis://h:port", "host that cannot be read: write host:port"),
        ("redis://h:99999", "host that cannot be read"),
        ("redis://:pass/word@h:1", "percent-encode what is special in a password"),
        ("redis://a,b", r"several hosts: that needs redis\+sentinel:// or redis\+cluster://"),
        ("redis+cluster://a,", "host that cannot be read"),
        ("redis://h/first", "database that is no number: write 0"),
        ("redis://h/-1", "database that is no number"),
        ("redis://h/0/1", "path that is too long"),
        ("redis+cluster://h/1", "a cluster has only number 0: leave it out"),
        ("redis+sentinel://h", r"does not name the Sentinels' service: write redis\+sentinel"),
        ("redis+sentinel://h/s/x", "database that is no number"),
        ("unix://h/path", "names no socket: write unix:///path"),
        ("unix://", "names no socket"),
        ("redis://h?ssl_ca_certs=f", "ssl_ca_certs, which needs TLS: write rediss"),
        ("redis://h?max_connections=3", "unknown option 'max_connections': there are db"),
        ("redis://h?db", "is not a URL"),
        ("rediss://h?ssl_cert_reqs=maybe", "write one of required, optional, none"),
        ("rediss://h?ssl_ca_certs=/no/such", "TLS files that cannot be used .*FileNotFoundError"),
        ("redis+cluster://h?sentinel_password=x", "unknown option 'sentinel_password'"),
    ],
)
def test_a_url_that_cannot_be_used_says_how_to_put_it_right(url: str, says: str) -> None:
    with pytest.raises(BadStoreUrl, match=says):
        parse_address(url)


def test_no_error_shows_a_password() -> None:
    for url in (
        "redis://:s3cret@h:port",
        "ftp://:s3cret@h",
        "redis://:s3cret@h/x",
        "redis://:s3cret/@",
    ):
        with pytest.raises(BadStoreUrl) as raised:
            parse_address(url)
        assert "s3cret" not in str(raised.value)
