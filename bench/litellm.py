"""LiteLLM's proxy, installed in an environment of its own: one worker, simple-shuffle, no database."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from bench import payloads
from bench.chain import REGION_KEY
from bench.machine import free_port, pin
from bench.processes import BenchError, await_gateway, child
from bench.report import say
from bench.site import Region, Site
from bench.subject import Subject

VERSION = "1.105.3"
DEBIAN_PYTHON = "/usr/bin/python3"
"""Built with profile-guided optimisation, on which LiteLLM is 1.6 times as fast as on a plain build."""

_LIVE = b"GET /health/liveliness HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
"""Not a chat completion: LiteLLM, which parses answers, calls a stream that it did not ask for an error."""


def install() -> Path:
    """Install LiteLLM into the user's cache if it is not there; give the path of its command."""
    python = _python()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "aoai-operator-bench" / f"litellm-{VERSION}-{python.strip('/').replace('/', '-')}"
    command, done = home / "bin" / "litellm", home / "installed"
    if done.exists():
        return command
    say(f"installing litellm[proxy]=={VERSION} into {home}, a minute or two, once")
    uv = _uv()
    _run(uv, "venv", "--clear", "--python", python, str(home))
    _run(uv, "pip", "install", "--python", str(home / "bin" / "python"), f"litellm[proxy]=={VERSION}")
    done.touch()
    return command


@contextmanager
def lite_llm(
    site: Site, regions: Sequence[Region], *, attempt_timeout: float = 30.0, tenant_tpm: int | None = None
) -> Iterator[Subject]:
    """Run LiteLLM with one worker before the regions.

    `attempt_timeout` in seconds; `tenant_tpm`: the tokens a minute that its only key may use; None: no limit.
    """
    command, port = install(), free_port()
    config, log = site.scratch / f"litellm-{port}.yaml", site.scratch / f"litellm-{port}.log"
    told = _config(regions, attempt_timeout)
    if tenant_tpm is not None:
        (site.scratch / f"limited_{port}.py").write_text(_LIMITED.format(tpm=tenant_tpm))
        # It refuses to start without a master key, which is nobody's here.
        told["general_settings"] = {
            "custom_auth": f"limited_{port}.limited",
            "master_key": f"sk-{secrets.token_hex(32)}",
        }
    config.write_text(yaml.safe_dump(told))
    arguments = [str(command), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with child([*arguments, "--num_workers", "1", "--telemetry", "False"], log=log, environment=quiet) as process:
        subject = Subject("LiteLLM", port, process.pid, v1_path="/v1/chat/completions")
        await_gateway(process, port, _LIVE, name=subject.name, log=log)
        pin(process.pid, site.cores.subject)
        yield subject


_LIMITED = """
from litellm.proxy._types import UserAPIKeyAuth

async def limited(request, api_key: str) -> UserAPIKeyAuth:
    return UserAPIKeyAuth(api_key=api_key, tpm_limit={tpm})
"""
"""Keys with limits are rows of a database; without one they are what an authentication of one's own says."""


def _config(regions: Sequence[Region], attempt_timeout: float) -> dict[str, Any]:
    models = [
        {
            "model_name": payloads.MODEL,
            "litellm_params": {
                "model": f"azure/{region.deployment}",
                "api_base": f"http://127.0.0.1:{region.port}",
                "api_key": REGION_KEY,
                "api_version": payloads.API_VERSION,
                "tpm": region.tokens_per_minute,
                "timeout": attempt_timeout,
            },
        }
        for region in regions
    ]
    return {
        "model_list": models,
        "router_settings": {"routing_strategy": "simple-shuffle", "num_retries": 3},
        "litellm_settings": {"telemetry": False, "request_timeout": 30},
        "general_settings": {"master_key": payloads.CLIENT_KEY},
    }


def _python() -> str:
    if Path(DEBIAN_PYTHON).exists():
        check = [DEBIAN_PYTHON, "-c", "import sys; sys.exit(sys.version_info < (3, 10))"]
        if subprocess.run(check, check=False).returncode == 0:
            return DEBIAN_PYTHON
    return sys.executable


def _uv() -> str:
    ours = Path(__file__).parent.parent / ".tools" / "bin" / "uv"
    uv = str(ours) if ours.exists() else shutil.which("uv")
    if uv is None:
        raise BenchError("LiteLLM is installed by uv: run `make bench`, which brings it")
    return uv


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BenchError(f"{' '.join(command)} failed:\n{result.stderr[-1500:]}")
