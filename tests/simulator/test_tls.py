"""Regions that speak TLS."""

from __future__ import annotations

import datetime
import ssl
from ipaddress import IPv4Address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aoai_operator.simulator import Deployment, Down, Region, Reset, Simulator
from support.waiting import eventually


def certificate(folder: Path) -> tuple[str, str]:
    """A self-signed certificate of localhost and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    certfile, keyfile = folder / "cert.pem", folder / "key.pem"
    certfile.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    keyfile.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    return str(certfile), str(keyfile)


async def test_tls_with_its_server_name_and_its_failures(tmp_path: Path) -> None:
    certfile, keyfile = certificate(tmp_path)
    deployments = [Deployment(name="d", model="m")]
    settings = Region(name="r", deployments=deployments, key="k", certfile=certfile, keyfile=keyfile)
    trusting = ssl.create_default_context(cafile=certfile)
    async with Simulator([settings]) as simulator, httpx.AsyncClient(verify=trusting) as client:
        region = simulator.regions["r"]
        url = region.url.replace("127.0.0.1", "localhost") + "/openai/v1/models"
        assert url.startswith("https://")
        assert (await client.get(url, headers={"api-key": "k"})).status_code == 200
        assert region.server.server_names == ["localhost"]
        async with httpx.AsyncClient() as stranger:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await stranger.get(url)
        await eventually(lambda: region.server.handshake_failures == 1)
        for fault in (Down(), Reset()):
            simulator.fault("r", fault)
            async with httpx.AsyncClient(verify=trusting) as fresh:
                with pytest.raises(httpx.NetworkError):
                    await fresh.get(url)
            simulator.heal("r")
