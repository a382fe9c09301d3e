"""https: the name is verified although the connection goes to a number."""

from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lead_coordinator.pipelines.seo.evaluate import evaluate
from lead_coordinator.pipelines.seo.visit import Site, Waiting, visit
from lead_coordinator.web.fetch import Fetcher, FetchFailed
from lead_coordinator_tests.pipelines.seo.material import LOCAL as AUDIT
from lead_coordinator_tests.web.server import WireServer, answer, redirect
from lead_coordinator_tests.web.test_fetch import LOCAL

NAME = "shop.example"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for shop.example that signs itself, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


@pytest.fixture
def server(certificate: Path) -> WireServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return WireServer(ssl_context=context)


async def here(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


async def test_the_name_is_verified_and_sent(server: WireServer, certificate: Path) -> None:
    trusted = ssl.create_default_context(cafile=str(certificate))
    server.routes["/"] = answer("secret")
    async with server.running(), Fetcher(LOCAL, resolve=here, ssl_context=trusted) as fetcher:
        got = await fetcher.get(f"https://{NAME}:{server.port}/")
        assert got.body == b"secret"
        assert server.asked[-1].headers["host"] == f"{NAME}:{server.port}"
        with pytest.raises(FetchFailed) as caught:
            await fetcher.get(f"https://other.example:{server.port}/")
    assert caught.value.kind == "tls", "a certificate for another name"


async def test_a_certificate_that_nobody_vouches_for_is_refused(server: WireServer) -> None:
    async with server.running(), Fetcher(LOCAL, resolve=here) as fetcher:
        with pytest.raises(FetchFailed) as caught:
            await fetcher.get(f"https://{NAME}:{server.port}/")
    assert caught.value.kind == "tls"
    assert server.asked == []


async def test_faults_that_only_https_can_have(server: WireServer, certificate: Path) -> None:
    """What examples/site can't plant, because this machine counts as secure: found over a real connection."""
    trusted = ssl.create_default_context(cafile=str(certificate))
    policy = replace(LOCAL, obey_robots=False)
    mixed = '<script src="http://cdn.example/x.js"></script><img src="/a.png" alt="a" width="1" height="1">'
    server.routes |= {"/": answer(f"<html lang=en><body>{mixed}</body></html>"), "/old": redirect("/")}
    async with server.running(), Fetcher(policy, resolve=here, ssl_context=trusted) as fetcher:
        home = f"https://{NAME}:{server.port}/"
        seen = await visit(fetcher, Site(home.rstrip("/"), AUDIT), Waiting(1, home, "page", 0))
        rules = {finding.rule for finding in evaluate(lambda: [seen.page], home).findings}
    assert {"mixed-content", "hsts-missing"} <= rules
    assert "plain-http" not in rules
