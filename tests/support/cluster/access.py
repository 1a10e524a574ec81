"""Who calls the API server, and with which credentials."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """What a pod of this ServiceAccount would find.

    Attributes:
        user: its name in the audit log.
        directory: as mounted in a pod: token, ca.crt, namespace.
        kubeconfig: the same for what runs outside a pod; it reads the token from `directory`.
    """

    user: str
    directory: Path
    kubeconfig: Path

    @property
    def token(self) -> str:
        """Its bearer token."""
        return (self.directory / "token").read_text()


def service_account(
    directory: Path, *, namespace: str, name: str, token: str, server: str, ca_file: Path
) -> ServiceAccount:
    """Write the files of a ServiceAccount."""
    directory.mkdir(parents=True, exist_ok=True)
    _private(directory / "token", token)
    (directory / "ca.crt").write_bytes(ca_file.read_bytes())
    (directory / "namespace").write_text(namespace)
    kubeconfig = write_kubeconfig(
        directory / "kubeconfig",
        user={"tokenFile": str(directory / "token")},
        server=server,
        ca_file=ca_file,
        namespace=namespace,
    )
    return ServiceAccount(f"system:serviceaccount:{namespace}:{name}", directory, kubeconfig)


def write_kubeconfig(
    file: Path, *, user: dict[str, str], server: str, ca_file: Path, namespace: str = "default"
) -> Path:
    """Write a kubeconfig (JSON is YAML) of one user."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": str(ca_file)}}],
        "users": [{"name": "test", "user": user}],
    }
    _private(file, json.dumps(content))
    return file


def _private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)
