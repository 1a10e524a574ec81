"""The directory of a running operator, and what becomes of those whose operator died."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from aoai_operator.adapters.workspace import workspace


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_it_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    with workspace() as directory:
        assert directory.parent == tmp_path
        assert directory.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []


def test_those_of_the_dead_are_swept_and_no_others(tmp_path: Path) -> None:
    dead, unlocked, foreign = (tmp_path / n for n in ("aoai-operator-dead", "aoai-operator-new", "other"))
    for made in (dead, unlocked, foreign):
        made.mkdir()
    (dead / "lock").touch()
    (dead / "operator.sock").touch()
    link = tmp_path / "aoai-operator-link"
    link.symlink_to(foreign)
    with workspace() as first, workspace() as second:
        assert set(tmp_path.iterdir()) == {first, second, unlocked, foreign, link}
