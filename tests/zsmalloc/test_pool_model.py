"""The pool against a dict, step by step, with all invariants checked after each step."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from coldmem.errors import StaleHandleError
from coldmem.zsmalloc import Pool

LIMIT = 4 << 20
NODE = st.integers(0, 5)  # modulo the nodes of the pool


class PoolMachine(RuleBasedStateMachine):
    options: dict = {}
    handles = Bundle("handles")

    def __init__(self):
        super().__init__()
        self.pool = Pool(limit=LIMIT, **self.options)
        self.unit = self.pool.unit_bytes
        self.model = {}
        self.dead = set()
        self.serial = 0

    def content(self, size):
        self.serial += 1
        return (self.serial.to_bytes(4, "little") * (size // 4 + 1))[:size]

    @rule(target=handles, size=st.one_of(st.integers(1, 4096), st.sampled_from([24, 25, 1000, 4096])),
          node=NODE)
    def store(self, size, node):
        data = self.content(size)
        handle = self.pool.store(data, node=node % self.pool.nodes)
        assert handle not in self.model
        assert handle not in self.dead
        self.model[handle] = data
        return handle

    @rule(target=handles, size=st.integers(1, 300), count=st.integers(1, 60), node=NODE)
    def store_many(self, size, count, node):
        for _ in range(count):
            handle = self.store(size, node)
        return handle

    @rule(handle=consumes(handles))
    def free(self, handle):
        if handle in self.model:
            self.pool.free(handle)
            del self.model[handle]
            self.dead.add(handle)
        else:
            with pytest.raises(StaleHandleError):
                self.pool.free(handle)

    @rule(handle=handles)
    def read_or_stale(self, handle):
        if handle in self.model:
            assert self.pool.read(handle) == self.model[handle]
        else:
            with pytest.raises(StaleHandleError):
                self.pool.read(handle)

    @rule(every=st.integers(2, 5))
    def free_every_nth(self, every):
        for handle in list(self.model)[::every]:
            self.pool.free(handle)
            del self.model[handle]
            self.dead.add(handle)

    @rule(handle=handles)
    def write(self, handle):
        if handle in self.model:
            data = self.content(len(self.model[handle]))
            self.pool.write(handle, data)
            self.model[handle] = data

    @rule()
    def compact(self):
        expected = self.pool.can_compact()
        used = self.pool.used_bytes
        freed = self.pool.compact()
        assert freed == expected, "compaction did less, or more, than can_compact promised"
        assert self.pool.used_bytes == used - freed * self.unit
        assert self.pool.can_compact() == 0

    @rule(node=NODE, origin=st.one_of(st.none(), NODE))
    def migrate(self, node, origin):
        node %= self.pool.nodes
        before = list(self.pool.stats().node_units)
        leaving = [n for n in range(self.pool.nodes) if n != node]
        if origin is not None:
            leaving = [n for n in leaving if n == origin % self.pool.nodes]
        moved = self.pool.migrate(node, None if origin is None else origin % self.pool.nodes)
        # The limit is never near, so all of it finds room.
        assert moved == sum(before[n] for n in leaving)
        after = before[:]
        for n in leaving:
            after[n] = 0
        after[node] += moved
        assert self.pool.stats().node_units == tuple(after)

    @rule(handle=handles, node=NODE)
    def migrate_around_a_view(self, handle, node):
        if handle not in self.model:
            return
        with self.pool.view(handle) as seen:
            self.pool.migrate(node % self.pool.nodes)
            assert bytes(seen) == self.model[handle]

    @rule()
    def trim(self):
        self.pool.trim()
        assert self.pool.stats().resident_free_bytes == 0

    @invariant()
    def everything_agrees(self):
        self.pool.check_valid("full")
        stats = self.pool.stats()
        assert stats.objects == len(self.model)
        assert sum(stats.node_units) * self.unit == stats.used_bytes
        rows = self.pool.class_stats()
        assert sum(row.pages_used for row in rows) * self.unit == stats.used_bytes
        by_class = {}
        for data in self.model.values():
            index = self.pool.lookup_class_index(len(data))
            by_class[index] = by_class.get(index, 0) + 1
        assert {row.index: row.obj_used for row in rows if row.obj_used} == by_class
        for handle, data in self.model.items():
            assert self.pool.read(handle) == data

    def teardown(self):
        for handle in self.model:
            self.pool.free(handle)
        self.pool.trim()
        self.pool.check_valid("full")
        assert self.pool.used_bytes == 0
        self.pool.close()


def machine(name, **options):
    made = type(name, (PoolMachine,), {"options": options})
    case = made.TestCase
    case.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
    return case


TestPool = machine("PoolLock", locking="pool")
TestClass = machine("ClassLock", locking="class")
TestHandle = machine("HandleLock", locking="handle")
TestHandleMagazine = machine("HandleMagazine", locking="handle", magazines=True)
TestChain16 = machine("Chain16", chain=16, compact_batch=1)
TestChain1Percent = machine("Chain1Percent", chain=1, chain_rule="percent")
TestUnit64K = machine("Unit64K", unit_bytes=65536, chain=4)
TestPoolNodes = machine("PoolNodes", locking="pool", nodes=3)
TestClassNodes = machine("ClassNodes", locking="class", nodes=2, compact_batch=3)
TestHandleNodes = machine("HandleNodes", locking="handle", nodes=3)
TestHandleMagazineNodes = machine("HandleMagazineNodes", locking="handle", magazines=True, nodes=2)
