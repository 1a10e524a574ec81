"""Which Secrets count as read: those for which the API server answered, and those that it will not give."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import pytest

from aoai_operator.adapters.kube.resources import SECRETS
from aoai_operator.adapters.kube.secrets import SecretReader
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.ports import JsonObject, KubeError, Resource
from support.kube import running
from support.waiting import eventually

POOL = PoolKey("ns", "pool")
KEY, OTHER = SecretRef("ns", "keys", "one"), SecretRef("ns", "keys", "two")
ELSEWHERE = SecretRef("ns", "elsewhere", "one")
AWAY = KubeError(0, "Unreachable", "the API server is away")
BROKEN = KubeError(500, "InternalError", "it cannot be decrypted")
FORBIDDEN = KubeError(403, "Forbidden", "it may not be read")


class Server:
    """Some Secrets, and what goes wrong with them. Only what the reader calls."""

    def __init__(self) -> None:
        self.entries: dict[PoolKey, dict[str, str]] = {}
        self.errors: dict[PoolKey, KubeError] = {}
        self.asked = 0

    async def get(self, resource: Resource, key: PoolKey) -> JsonObject | None:
        assert resource is SECRETS
        self.asked += 1
        if key in self.errors:
            raise self.errors[key]
        if key not in self.entries:
            return None
        return {"data": {name: base64.b64encode(text.encode()).decode() for name, text in self.entries[key].items()}}

    def put(self, ref: SecretRef, text: str) -> None:
        self.entries.setdefault(PoolKey(ref.namespace, ref.name), {})[ref.key] = text

    def fail(self, ref: SecretRef, error: KubeError | None) -> None:
        self.errors.pop(PoolKey(ref.namespace, ref.name), None)
        if error is not None:
            self.errors[PoolKey(ref.namespace, ref.name)] = error


class Reading:
    """A reader, on a clock that the test moves."""

    def __init__(self) -> None:
        self.server = Server()
        self.now = 1000.0
        self.told = 0
        self.reader = SecretReader(self.server, interval=30, changed=self._changed, clock=lambda: self.now)  # type: ignore[arg-type]

    def _changed(self) -> None:
        self.told += 1

    async def again(self, seconds: float = 2.0) -> None:
        """Let time pass, and have everything read that is due by then."""
        self.now += seconds
        asked = self.server.asked
        self.reader.refresh()
        await eventually(lambda: self.server.asked > asked)


@pytest.fixture
async def reading() -> AsyncIterator[Reading]:
    made = Reading()
    async with running(made.reader.run()):
        yield made


async def test_what_is_found_and_what_is_not_there_is_read(reading: Reading) -> None:
    reading.server.put(KEY, "a")
    assert reading.reader.unread([KEY])
    reading.reader.want("tables", {POOL: [KEY, ELSEWHERE]})
    await eventually(lambda: not reading.reader.unread([KEY, ELSEWHERE]))
    assert reading.reader.values[KEY].reveal() == "a"
    assert reading.told == 2, "also of the one that is not there: somebody may wait for it"


async def test_no_answer_is_none(reading: Reading) -> None:
    reading.server.fail(KEY, AWAY)
    reading.reader.want("tables", {POOL: [KEY]})
    for _ in range(20):
        await reading.again()
        assert reading.reader.unread([KEY])
    reading.server.put(KEY, "a")
    reading.server.fail(KEY, None)
    await reading.again()
    await eventually(lambda: not reading.reader.unread([KEY]))
    await reading.reader.settled()
    assert reading.reader.values[KEY].reveal() == "a"


async def test_a_refusal_is_an_answer(reading: Reading) -> None:
    reading.server.fail(KEY, FORBIDDEN)
    reading.reader.want("tables", {POOL: [KEY]})
    await eventually(lambda: not reading.reader.unread([KEY]))
    assert reading.told == 1


async def test_one_secret_that_goes_on_failing_while_others_are_answered_keeps_nobody_waiting(reading: Reading) -> None:
    reading.server.put(ELSEWHERE, "b")
    reading.server.fail(KEY, BROKEN)
    reading.reader.want("tables", {POOL: [KEY, ELSEWHERE]})
    await eventually(lambda: not reading.reader.unread([ELSEWHERE]))
    await reading.again(5)
    assert reading.reader.unread([KEY])
    for _ in range(3):
        await reading.again(5)
    await eventually(lambda: not reading.reader.unread([KEY]))


async def test_an_entry_that_is_named_later_is_read_before_it_counts(reading: Reading) -> None:
    reading.server.put(KEY, "a")
    reading.reader.want("tables", {POOL: [KEY]})
    await eventually(lambda: not reading.reader.unread([KEY]))
    reading.server.put(OTHER, "b")
    reading.reader.want("tables", {POOL: [KEY, OTHER]})
    assert reading.reader.unread([OTHER])
    assert reading.reader.values[KEY].reveal() == "a"
    await eventually(lambda: not reading.reader.unread([OTHER]))
    assert reading.reader.values[OTHER].reveal() == "b"


async def test_what_is_known_is_another_mapping_after_a_change_and_the_same_without(reading: Reading) -> None:
    reading.server.put(KEY, "a")
    reading.server.put(ELSEWHERE, "b")
    reading.reader.want("tables", {POOL: [KEY, ELSEWHERE]})
    await reading.reader.settled()
    before = reading.reader.values
    await reading.again()
    assert reading.reader.values is before
    reading.server.put(KEY, "new")
    await reading.again()
    await eventually(lambda: reading.reader.values is not before)
    assert {ref: value.reveal() for ref, value in reading.reader.values.items()} == {KEY: "new", ELSEWHERE: "b"}
    assert before[KEY].reveal() == "a", "what somebody holds stays as it is"


async def test_many_secrets_are_read_again_at_ten_a_second(reading: Reading) -> None:
    refs = [SecretRef("ns", f"keys-{number}", "one") for number in range(1000)]
    for ref in refs:
        reading.server.put(ref, "a")
    reading.reader.want("tables", {POOL: refs})
    await reading.reader.settled()
    reading.reader.refresh()
    await eventually(lambda: reading.server.asked == 2000)
    reading.now += 79
    reading.reader.refresh([])  # has it look what is due
    for _ in range(10):
        await asyncio.sleep(0)
    assert reading.server.asked == 2000, "none is read again after less than 80 s"
    reading.now += 21.1
    reading.reader.refresh([])
    await eventually(lambda: reading.server.asked >= 3000)


async def test_one_that_fails_among_many_is_tried_again_soon(reading: Reading) -> None:
    refs = [SecretRef("ns", f"keys-{number}", "one") for number in range(1000)]
    for ref in refs:
        reading.server.put(ref, "a")
    reading.server.fail(refs[0], AWAY)
    reading.reader.want("tables", {POOL: refs})
    await eventually(lambda: not reading.reader.unread(refs[1:]))
    reading.server.fail(refs[0], None)
    reading.now += 1
    await eventually(lambda: not reading.reader.unread(refs))


async def test_an_entry_is_wanted_for_as_long_as_any_object_refers_to_it(reading: Reading) -> None:
    other = PoolKey("ns", "other")
    reading.server.put(KEY, "a")
    reading.reader.want("tables", {POOL: [KEY], other: [KEY]})
    await reading.reader.settled()
    reading.reader.want("tables", {other: [KEY]})
    assert KEY in reading.reader.values
    reading.reader.want("served", {POOL: [KEY]})
    reading.reader.want("tables", {})
    assert KEY in reading.reader.values
    reading.reader.want("served", {POOL: []})
    assert KEY not in reading.reader.values
