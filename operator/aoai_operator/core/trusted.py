"""To whom a token of the operator's identity, or what it is asked for with, may be sent.

Whoever may write a pool says where its endpoints are. A token opens every resource that the identity may use, until it
is over: so it goes to Azure alone, by TLS, and what proves the identity goes to Entra ID alone.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

ENDPOINTS = (
    "openai.azure.com",
    "cognitiveservices.azure.com",
    "services.ai.azure.com",
    "openai.azure.us",
    "cognitiveservices.azure.us",
    "services.ai.azure.us",
    "openai.azure.cn",
    "cognitiveservices.azure.cn",
)
"""Domains of Azure OpenAI and Azure AI Foundry resources, of the public and the national clouds.

Source: Azure OpenAI REST API reference, "Endpoints"; Azure Government and Azure China, "Compare services".
"""

AUTHORITIES = (
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.partner.microsoftonline.cn",
    "login.chinacloudapi.cn",
)
"""Where Entra ID is. Source: Microsoft identity platform, "National clouds"; azure-identity, AzureAuthorityHosts."""

MANAGERS = {
    "login.microsoftonline.us": "https://management.usgovcloudapi.net",
    "login.partner.microsoftonline.cn": "https://management.chinacloudapi.cn",
    "login.chinacloudapi.cn": "https://management.chinacloudapi.cn",
}
"""Azure Resource Manager of the national clouds, by their authority. Source: Azure Resource Manager, "Endpoints"."""
PUBLIC_MANAGER = "https://management.azure.com"


def manager_of(authority_host: str) -> str:
    """Return the URL of Azure Resource Manager in the cloud of an authority; an empty one is the public cloud's."""
    return MANAGERS.get(urlsplit(authority_host.lower()).hostname or "", PUBLIC_MANAGER)


def is_manager(url: str, more: Collection[str]) -> bool:
    """Tell whether a URL is that of Azure Resource Manager."""
    return url in (PUBLIC_MANAGER, *MANAGERS.values()) or _among(urlsplit(url).hostname or "", more)


def takes_tokens(scheme: str, host: str, more: Collection[str]) -> bool:
    """Tell whether tokens may be sent to a host, in lower case; `more` are those that the operator's owner trusts."""
    if _among(host, more):
        return True
    return scheme == "https" and _among(host, ENDPOINTS)


def is_authority(url: str, more: Collection[str]) -> bool:
    """Tell whether a URL is that of Entra ID; an empty one is the operator's own choice."""
    host = urlsplit(url).hostname or ""
    return not url or host in AUTHORITIES or _among(host, more)


def _among(host: str, domains: Collection[str]) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)
