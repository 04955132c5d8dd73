"""Every engine against a dict: any sequence of calls of the storage contract, reopening included."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sadik.kernels.native.segment import FLAG_DEAD
from sadik.storage.engine import ABSENT, STORED
from tests.storage.calls import Item, in_order, read_batch, walk, write_batch
from tests.storage.conftest import ENGINES, subject_of, temporary_directory

KEYS = in_order(range(12))
keys = st.sampled_from(KEYS)
values = st.one_of(st.binary(max_size=40), st.integers(1, 3000).map(lambda size: b"x" * size))
flags = st.sampled_from([0, 0, FLAG_DEAD])


class ModelMachine(RuleBasedStateMachine):
    """An engine and a dict get the same calls. Garbage may vanish at any time, but never turn into more."""

    subject_name = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.directory = temporary_directory()
        self.subject = subject_of(self.subject_name, f"{self.directory.name}/engine")
        self.stored: dict[bytes, Item] = {}
        self.system: dict[bytes, bytes] = {}
        self.spaces = [1, 2]
        self.retired: set[int] = set()
        self.ticket = 0

    @initialize()
    def start(self) -> None:
        self.engine = self.subject.open()

    def teardown(self) -> None:
        self.engine.close()
        self.directory.cleanup()

    def take_ticket(self, ticket: int, *, wrote: bool = True) -> None:
        assert ticket > self.ticket if wrote else ticket >= self.ticket
        self.ticket = ticket

    def is_garbage(self, item: Item) -> bool:
        return item[3] in self.retired

    @rule(key=keys, value=values, space=st.integers(0, 1), flag=flags)
    def put(self, key: bytes, value: bytes, space: int, flag: int) -> None:
        self.take_ticket(self.engine.put(key, key[:2], value, self.spaces[space], flag))
        self.stored[key] = (key, key[:2], value, self.spaces[space], flag)

    @rule(items=st.lists(st.tuples(keys, values), max_size=8))
    def put_many(self, items: list[tuple[bytes, bytes]]) -> None:
        triples = [(key, key[:3], value) for key, value in items]
        self.take_ticket(self.engine.put_many(triples, self.spaces[0]), wrote=bool(items))
        self.stored |= {key: (key, name, value, self.spaces[0], 0) for key, name, value in triples}

    @rule(items=st.lists(st.tuples(keys, values, st.integers(0, 1), flags), max_size=12))
    def write_batch(self, items: list[tuple[bytes, bytes, int, int]]) -> None:
        batch = [(key, key[:1], value, self.spaces[space], flag) for key, value, space, flag in items]
        self.take_ticket(write_batch(self.engine, batch), wrote=any(value for _, value, _, _ in items))
        self.stored |= {item[0]: item for item in batch if item[2]}

    @rule(key=keys)
    def remove(self, key: bytes) -> None:
        self.take_ticket(self.engine.remove(key), wrote=False)
        self.stored.pop(key, None)

    @rule(name=st.sampled_from([b"a", b"b", b"c"]), value=st.binary(max_size=5))
    def system_put(self, name: bytes, value: bytes) -> None:
        self.take_ticket(self.engine.system_put(name, value), wrote=False)
        self.system[name] = value

    @rule(which=st.integers(0, 1))
    def retire(self, which: int) -> None:
        space = self.spaces.pop(which)
        self.spaces.append(max(self.spaces[0], space) + 1)
        self.engine.retire(space)
        self.retired.add(space)

    @rule()
    def sync(self) -> None:
        self.engine.sync()
        assert self.engine.durable_ticket >= self.ticket

    @rule(bytes_max=st.sampled_from([1, 1000, 1 << 20]))
    def maintain(self, bytes_max: int) -> None:
        self.engine.maintain(bytes_max)

    @precondition(lambda self: self.subject.persistent)
    @rule()
    def reopen(self) -> None:
        self.engine.close()
        self.engine = self.subject.open()
        self.engine.declare_spaces(self.spaces)
        self.ticket = self.engine.durable_ticket

    @rule(asked=st.lists(keys, max_size=10), bytes_max=st.sampled_from([0, 500, 1 << 30]))
    def read(self, asked: list[bytes], bytes_max: int) -> None:
        found = self.engine.get_many(asked)
        for key, value in zip(asked, found, strict=True):
            assert self.engine.get(key) == value
            item = self.stored.get(key)
            assert value == (item[2] if item else None) or (item and self.is_garbage(item) and value is None)
        batch = read_batch(self.engine, asked, bytes_max=bytes_max)
        assert len(batch) == len(asked) or sum(len(value or b"") for value in found) > bytes_max
        for (status, value), expected in zip(batch, found, strict=False):
            assert (status, value) == ((ABSENT, b"") if expected is None else (STORED, expected))

    @rule(page=st.integers(1, 12))
    def look_at_everything(self, page: int) -> None:
        entries = walk(self.engine, page)
        items = [(entry.digest, entry.name, entry.value, entry.space, entry.flags) for entry in entries]
        assert [item[0] for item in items] == sorted({item[0] for item in items})
        assert all(item == self.stored[item[0]] for item in items)
        assert {item[0] for item in items} >= {
            key for key, item in self.stored.items() if not self.is_garbage(item)
        }
        for space in (*self.spaces, *self.retired):
            alive = [item for item in self.stored.values() if item[3] == space and not item[4]]
            assert self.engine.count(space) == (0 if space in self.retired else len(alive))
        remembered = {name: value for name, value in self.system.items() if value}
        assert dict(self.engine.system_items()) == remembered
        assert self.engine.losses == 0


@pytest.mark.parametrize("name", ENGINES)
def test_engine_equals_a_dict_whatever_the_calls(name: str) -> None:
    machine = type("Machine", (ModelMachine,), {"subject_name": name})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
