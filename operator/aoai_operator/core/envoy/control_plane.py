"""How an Envoy reaches the control plane, and how it proves who it is: the cluster that its bootstrap names.

A proxy of a gateway has a client certificate in a mounted Secret. A sidecar has its pod's projected service-account
token, and so needs no Secret in the application's namespace. Both check the server by the operator's CA.
What they hold is replaced while they run: Envoy watches the directories for the swap of `..data` by which the
kubelet updates a volume, and the token is read at the start of every call.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass

from aoai_operator.core.envoy.config import EXTENSIONS, TYPE, extension, typed
from aoai_operator.core.envoy.settings import CONTROL_PLANE
from aoai_operator.core.envoy.snapshot import Json

IDENTITY_FILE = "identity.json"
"""The SDS file that names the client certificate."""
TRUST_FILE = "trust.json"
"""The SDS file that names the CAs."""


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP address. The control plane's may be a DNS name; others are IP addresses."""

    host: str
    port: int

    def to_envoy(self) -> Json:
        """Return it as an `envoy.config.core.v3.Address`."""
        return {"socket_address": {"address": self.host, "port_value": self.port}}


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket; the mode of its directory decides who may connect."""

    path: str

    def to_envoy(self) -> Json:
        """Return it as an `envoy.config.core.v3.Address`."""
        return {"pipe": {"path": self.path}}


Address = TcpAddress | UnixAddress


@dataclass(frozen=True, slots=True)
class MutualTls:
    """The proxy shows a client certificate."""

    address: TcpAddress
    server_name: str
    """The DNS name that the server's certificate must have; also sent as SNI."""
    certificates: str
    """The directory, on Envoy's file system, of tls.crt, tls.key and ca.crt: the mount of a Secret."""
    sds: str
    """The directory of `sds_files`."""


@dataclass(frozen=True, slots=True)
class Token:
    """The proxy shows a service-account token."""

    address: TcpAddress
    server_name: str
    """The DNS name that the server's certificate must have; also sent as SNI."""
    trust: str
    """The directory, on Envoy's file system, of ca.crt: the mount of a ConfigMap."""
    token: str
    """The file of the token: the mount of a projected volume."""
    sds: str
    """The directory of `sds_files`."""


ControlPlaneAccess = TcpAddress | UnixAddress | MutualTls | Token


def control_plane_cluster(access: ControlPlaneAccess) -> Json:
    """Return the static cluster of the control plane, for xDS and the access log."""
    address = access.address if isinstance(access, MutualTls | Token) else access
    cluster: Json = {
        "name": CONTROL_PLANE,
        "type": "STATIC" if _is_literal(address) else "STRICT_DNS",
        # Envoy's default would prefer an IPv6 address, at which not every server listens.
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": CONTROL_PLANE,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address.to_envoy()}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": EXTENSIONS + "upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {
                    "http2_protocol_options": {
                        # A control plane that vanished without a FIN must not be waited for: configuration would
                        # stand still, and nothing would say so.
                        "connection_keepalive": {"interval": "10s", "timeout": "5s"},
                    }
                },
                **(_token_filters(access.token) if isinstance(access, Token) else {}),
            }
        },
    }
    if isinstance(access, MutualTls | Token):
        cluster["transport_socket"] = _tls(access)
    return cluster


def sds_files(access: MutualTls | Token) -> Mapping[str, Json]:
    """Return what must lie in the `sds` directory, by file name.

    Envoy reloads certificates only when they come by SDS [tried: files named in the cluster itself are read once].
    These files never change; the directories that they watch do.
    """
    files = {TRUST_FILE: _trust(access)}
    if isinstance(access, MutualTls):
        files[IDENTITY_FILE] = _identity(access)
    return files


def _is_literal(address: Address) -> bool:
    if isinstance(address, UnixAddress):
        return True
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        return False
    return True


def _tls(access: MutualTls | Token) -> Json:
    context: Json = {
        # The server insists on ALPN. Envoy's own bound as a client is TLS 1.2.
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "validation_context_sds_secret_config": _by_file("trust", access.sds, TRUST_FILE),
    }
    if isinstance(access, MutualTls):
        context["tls_certificate_sds_secret_configs"] = [_by_file("identity", access.sds, IDENTITY_FILE)]
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed(
            "transport_sockets.tls.v3.UpstreamTlsContext", sni=access.server_name, common_tls_context=context
        ),
    }


def _by_file(name: str, directory: str, file: str) -> Json:
    source = {"path_config_source": {"path": f"{directory}/{file}"}, "resource_api_version": "V3"}
    return {"name": name, "sds_config": source}


def _trust(access: MutualTls | Token) -> Json:
    directory = access.certificates if isinstance(access, MutualTls) else access.trust
    validation: Json = {
        "trusted_ca": {"filename": f"{directory}/ca.crt"},
        "watched_directory": {"path": directory},
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": access.server_name}}],
    }
    return _secret("trust", {"validation_context": validation})


def _identity(access: MutualTls) -> Json:
    certificate: Json = {
        "certificate_chain": {"filename": f"{access.certificates}/tls.crt"},
        "private_key": {"filename": f"{access.certificates}/tls.key"},
        "watched_directory": {"path": access.certificates},
    }
    return _secret("identity", {"tls_certificate": certificate})


def _secret(name: str, kind: Json) -> Json:
    secret = {"@type": TYPE + "envoy.extensions.transport_sockets.tls.v3.Secret", "name": name, **kind}
    return {"resources": [secret]}


def _token_filters(token: str) -> Json:
    """Return the filters that add the token to each call.

    Envoy's own way, google_grpc with file_based_metadata, reads the CAs only once, so that a rotated CA would cut
    off every sidecar that runs; and an access log by google_grpc costs Envoy about 0.1 ms more an entry.
    """
    code = f"""
function envoy_on_request(handle)
  local file = io.open({json.dumps(token)}, "r")
  if not file then
    handle:logErr("the service-account token cannot be read")
    return
  end
  handle:headers():replace("authorization", "Bearer " .. (file:read("*l") or ""))
  file:close()
end
"""
    return {
        "http_filters": [
            extension("token", "filters.http.lua.v3.Lua", default_source_code={"inline_string": code}),
            extension("upstream_codec", "filters.http.upstream_codec.v3.UpstreamCodec"),
        ]
    }
