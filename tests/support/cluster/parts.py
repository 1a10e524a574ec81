"""The control plane's files, ports and command lines."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from aoai_operator.adapters.listening import reserved_port
from support.cluster import audit
from support.cluster.access import write_kubeconfig
from support.servers import Authority

ADMIN = "admin"
"""The user that the tests are; in system:masters, as are the next."""

CONTROLLERS = "system:kube-controller-manager"
SCHEDULER = "system:kube-scheduler"
KWOK = "kwok"

_STAGES = Path(__file__).with_name("kwok.yaml")
_NAMES = ("127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
_RUN = (
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
    "validatingadmissionpolicy-status-controller",
)
"""The controllers whose work a chart or a test can see; without those for nodes, volumes, clouds, certificates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """The ports on 127.0.0.1, the same after each restart."""

    etcd: int
    etcd_peers: int
    apiserver: int
    controllers: int
    scheduler: int

    @classmethod
    @contextlib.contextmanager
    def reserved(cls) -> Iterator[Addresses]:
        """Hold free ports, each for a server that shares it with us: nobody else gets one while its server is away."""
        with contextlib.ExitStack() as stack:
            yield cls(**{field.name: stack.enter_context(reserved_port("127.0.0.1", 0)) for field in fields(cls)})

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://127.0.0.1:{self.apiserver}"


class Files:
    """Keys, certificates, tokens, policies and kubeconfigs in a directory."""

    def __init__(self, directory: Path, server: str) -> None:
        self.directory = directory
        self.data = directory / "etcd"
        self.audit_log = directory / "audit.log"
        authority = Authority(directory)
        authority.server(*_NAMES)
        self.ca = authority.ca_file
        self.certificate = directory / "server.pem"
        self.signing_key = directory / "service-accounts.pem"
        self.signing_key.write_bytes(_rsa_key())
        self.audit_policy = self._write("audit-policy.json", json.dumps(audit.POLICY))
        self.tokens = {user: secrets.token_urlsafe() for user in (ADMIN, CONTROLLERS, SCHEDULER, KWOK)}
        lines = [f'{token},{user},{user},"system:masters"\n' for user, token in self.tokens.items()]
        self.token_file = self._write("tokens.csv", "".join(lines))
        self.kubeconfigs = {
            user: write_kubeconfig(
                directory / f"{user.removeprefix('system:')}.kubeconfig",
                user={"token": token},
                server=server,
                ca_file=self.ca,
            )
            for user, token in self.tokens.items()
        }

    def _write(self, name: str, text: str) -> Path:
        file = self.directory / name
        file.write_text(text)
        return file


def command_lines(tools: Mapping[str, Path], files: Files, at: Addresses) -> dict[str, Sequence[str]]:
    """Return the command line of each program, by its name."""
    etcd = f"http://127.0.0.1:{at.etcd}"
    peers = f"http://127.0.0.1:{at.etcd_peers}"
    serving = {
        "bind-address": "127.0.0.1",
        "permit-port-sharing": "true",
        "tls-cert-file": files.certificate,
        "tls-private-key-file": files.certificate,
    }
    options: dict[str, dict[str, object]] = {
        "etcd": {
            "name": "test",
            "data-dir": files.data,
            "listen-client-urls": etcd,
            "advertise-client-urls": etcd,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"test={peers}",
            "socket-reuse-port": "true",
            # What a crash of the machine would lose is a test's.
            "unsafe-no-fsync": "true",
            "quota-backend-bytes": 8 * 2**30,
            "log-level": "warn",
        },
        "kube-apiserver": {
            "etcd-servers": etcd,
            "secure-port": at.apiserver,
            "endpoint-reconciler-type": "none",
            **serving,
            # Without it, a server that was asked to end waits a minute for the watches to end by themselves.
            "shutdown-watch-termination-grace-period": "5s",
            # This plugin taints a new node until a controller finds it ready; no controller of nodes runs here.
            "disable-admission-plugins": "TaintNodesByCondition",
            "authorization-mode": "RBAC",
            "token-auth-file": files.token_file,
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": files.signing_key,
            "service-account-signing-key-file": files.signing_key,
            "service-cluster-ip-range": "10.96.0.0/16",
            "audit-policy-file": files.audit_policy,
            "audit-log-path": files.audit_log,
            # In MB: never rotated, so that a mark stays valid.
            "audit-log-maxsize": 100_000,
        },
        "kube-controller-manager": {
            "kubeconfig": files.kubeconfigs[CONTROLLERS],
            "secure-port": at.controllers,
            **serving,
            "leader-elect": "false",
            "controllers": ",".join(_RUN),
            "root-ca-file": files.ca,
            "service-account-private-key-file": files.signing_key,
        },
        "kube-scheduler": {
            "kubeconfig": files.kubeconfigs[SCHEDULER],
            "secure-port": at.scheduler,
            **serving,
            "leader-elect": "false",
        },
        "kwok": {
            "kubeconfig": files.kubeconfigs[KWOK],
            "config": _STAGES,
            "manage-all-nodes": "true",
            # No leases of nodes: a kwok that was killed would hold them for another 40 s.
            "node-lease-duration-seconds": 0,
            "cidr": "10.244.0.1/24",
        },
    }
    return {name: [str(tools[name]), *(f"--{k}={v}" for k, v in flags.items())] for name, flags in options.items()}


def health_urls(at: Addresses) -> dict[str, str]:
    """Return, by program, what answers 200 when it serves; kwok serves nothing."""
    return {
        "etcd": f"http://127.0.0.1:{at.etcd}/health",
        "kube-apiserver": f"{at.server}/readyz",
        "kube-controller-manager": f"https://127.0.0.1:{at.controllers}/healthz",
        "kube-scheduler": f"https://127.0.0.1:{at.scheduler}/readyz",
    }


def _rsa_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
