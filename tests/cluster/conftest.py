"""One real control plane for all tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest
import pytest_asyncio

from support.cluster.control_plane import ControlPlane
from support.cluster.house import House
from support.cluster.toolchain import ToolchainError, tools


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Build the programs before the first test, whose time is limited, and in sight."""
    ours = any(Path(__file__).parent in item.path.parents for item in items)
    if not ours or config.option.collectonly:
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        try:
            tools()
        except ToolchainError as error:
            raise pytest.UsageError(f"no control plane to test on: {error}") from error


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of a fixture's House with a test that failed: no error of a test is thrown into a fixture."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        houses = {id(value): value for value in item.funcargs.values() if isinstance(value, House)}
        report.sections += [section for house in houses.values() for section in house.logs()]
    return report


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _session_plane() -> AsyncIterator[ControlPlane]:
    async with ControlPlane() as running:
        yield running


@pytest.fixture
async def plane(_session_plane: ControlPlane) -> AsyncIterator[ControlPlane]:
    """The control plane, whole; what a test stops or kills is started again after it."""
    yield _session_plane
    await _session_plane.heal()


@pytest.fixture
async def namespace(plane: ControlPlane) -> AsyncIterator[str]:
    """A namespace of the test's own."""
    async with plane.namespace() as name:
        yield name


@pytest.fixture
async def house(plane: ControlPlane, namespace: str) -> AsyncIterator[House]:
    """The chart's operator and one Envoy of its gateway, alone in a namespace."""
    async with House(plane, namespace) as made:
        await made.release.start_operator()
        await made.release.start_gateway()
        yield made
