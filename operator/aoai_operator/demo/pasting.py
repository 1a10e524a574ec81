"""What `aoai-operator demo --keep` prints to paste."""

from __future__ import annotations

from aoai_operator.demo.site import BIGGEST, CHAT, POOL, THROTTLED


def what_to_paste(url: str, metrics: str, admin: str, key: str, manifests: str) -> str:
    """Return commands and a snippet against the running demo. The key is one of this run alone."""
    return f"""
It goes on running. Paste into another terminal:

  export AOAI_KEY={key}

  curl {url}/{POOL}/openai/v1/chat/completions -H "api-key: $AOAI_KEY" -H "content-type: application/json" \\
    -d '{{"model": "{CHAT}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="{url}/{POOL}/openai/v1", api_key="{key}")
  client.chat.completions.create(model="{CHAT}", messages=[{{"role": "user", "content": "Hello"}}])

  curl -s {metrics} | grep ^aoai_

  aoai-operator simulate fault {THROTTLED} throttle retry_after_ms=5000 --admin-url {admin}
  aoai-operator simulate fault {BIGGEST} down --admin-url {admin}
  aoai-operator simulate heal {BIGGEST} --admin-url {admin}
  aoai-operator simulate status --admin-url {admin}

The manifests are in {manifests}: edit them, and it takes effect at once. Stop with Ctrl-C.
"""
