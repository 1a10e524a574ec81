"""What tenants used, in a file: for a ledger that begins anew."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from aoai_operator.core.api.usage import TenantUsage
from aoai_operator.core.names import PoolKey

_USAGES = TypeAdapter(dict[str, TenantUsage])


class UsageFileError(Exception):
    """The file cannot be read, or is none of ours; the message is one sentence for people."""


class UsageFile:
    """A file `usage.json`: tenants, by "namespace/name", with what their statuses would tell."""

    def __init__(self, directory: Path) -> None:
        """Take where it is; the directory is made where it is missing."""
        self.path = directory / "usage.json"

    def load(self) -> Mapping[PoolKey, TenantUsage]:
        """Return what was saved last; nothing where nothing was.

        Raises:
            UsageFileError: see there.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            told = _USAGES.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UsageFileError(f"{self.path} cannot be read: {error.strerror}") from error
        except ValidationError:
            message = f"{self.path} is no file of ours, or broken: delete it to begin with nothing used"
            raise UsageFileError(message) from None
        return {PoolKey.of(tenant): usage for tenant, usage in told.items()}

    def save(self, usages: Mapping[PoolKey, TenantUsage]) -> None:
        """Replace the file, at once or not at all.

        Raises:
            OSError: it cannot be written.
        """
        fresh = self.path.with_suffix(".new")
        told = {str(tenant): usage for tenant, usage in sorted(usages.items())}
        with fresh.open("wb") as file:
            file.write(_USAGES.dump_json(told, by_alias=True, indent=1))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self.path)
