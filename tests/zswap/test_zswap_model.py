"""A Zswap against a dict: random operations, contents, counters and charges after each step."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from unit_data import UNIT, noise, same, sized, text

from coldmem.errors import MemoryLimitError, SlotNotFoundError, SwapFileError
from coldmem.testing.faults import Fault, FaultPlan
from coldmem.zswap import Zswap

SLOTS = st.integers(0, 15)
KINDS = st.sampled_from([text, noise, same, lambda k: sized(k, 0.5), lambda k: sized(k, 0.05)])
NAMES = ("a", "b", "c")  # c is below b
PARENT = {"a": None, "b": None, "c": "b"}
LIMITS = st.sampled_from(["max", 0, 1000, UNIT + 80, 5 * UNIT, 20 * UNIT])


class Model(RuleBasedStateMachine):
    @initialize(
        locking=st.sampled_from(["handle", "class", "pool"]), pools=st.sampled_from([1, 3]),
        shards=st.sampled_from([1, 4]), swap=st.sampled_from([None, "96K", "8M"]),
        on_full=st.sampled_from(["writeback", "reject"]),
        shrinker=st.sampled_from(["referenced", "protected"]),
        incompressible=st.sampled_from(["raw", "reject"]),
        cold_codec=st.sampled_from([None, "zstd"]),
        max_pool=st.sampled_from(["64K", "128K", "4M"]), makes=st.lists(KINDS, max_size=16),
    )
    def begin(self, makes, **options):
        self.z = Zswap(shrinker_thread=False, **options)
        self.options = options
        self.units = {}  # slot -> (data, group)
        self.groups = {}
        self.limits = {}
        self.stored = self.loaded = self.refused = 0
        self.faulty = False
        # Begin with something in RAM and something on disk.
        self.group("a", "max", "max", "max", True)
        for slot, make in enumerate(makes):
            self.store(slot, make, slot, (None, "a")[slot % 2])
        self.shrink(len(makes) // 2 + 1, False)

    def teardown(self):
        if hasattr(self, "z"):
            self.see_all()
            self.z.close()

    # -- what is done ------------------------------------------------------------------------------
    def group_of(self, draw):
        return draw if draw in self.groups else None

    @rule(slot=SLOTS, make=KINDS, key=st.integers(0, 5), group=st.sampled_from((None, *NAMES)))
    def store(self, slot, make, key, group):
        group = self.group_of(group)
        data = make(key)
        self.units.pop(slot, None)
        try:
            self.z.store(slot, data, group)
        except MemoryLimitError:
            self.refused += 1
            assert slot not in self.z
        else:
            self.stored += 1
            self.units[slot] = (data, group)

    @rule(first=SLOTS, n=st.integers(0, 8), make=KINDS, group=st.sampled_from((None, *NAMES)))
    def store_many(self, first, n, make, group):
        group = self.group_of(group)
        slots = range(first, first + n)
        before = self.z.counters()["zswpout"]
        for slot in slots:
            self.units.pop(slot, None)
        try:
            self.z.store_many(slots, b"".join(make(slot) for slot in slots), group)
        except MemoryLimitError:
            self.refused += 1
            assert not any(slot in self.z for slot in slots)
            self.stored += self.z.counters()["zswpout"] - before  # some went in, and out again
        else:
            self.stored += n
            for slot in slots:
                self.units[slot] = (make(slot), group)

    @rule(slot=SLOTS, exclusive=st.booleans())
    def load(self, slot, exclusive):
        out = bytearray(UNIT)
        try:
            self.z.load(slot, out, exclusive=exclusive)
        except SlotNotFoundError:
            assert slot not in self.units
        except SwapFileError:
            assert self.faulty
            assert slot in self.units
        else:
            self.loaded += 1
            assert out == self.units[slot][0]
            if exclusive:
                del self.units[slot]

    @rule(slots=st.lists(SLOTS, unique=True, max_size=12), exclusive=st.booleans())
    def load_many(self, slots, exclusive):
        out = bytearray(UNIT * len(slots))
        bad = ()
        try:
            self.z.load_many(slots, out, exclusive=exclusive)
        except SlotNotFoundError as error:
            bad = error.slots
            assert set(bad) == {slot for slot in slots if slot not in self.units}
        except SwapFileError as error:
            assert self.faulty
            bad = {slot for one in (error, *error.others) for slot in one.slots}
            assert bad >= {slot for slot in slots if slot not in self.units}
        else:
            assert all(slot in self.units for slot in slots)
        for i, slot in enumerate(slots):
            if slot not in bad:
                assert out[i * UNIT:(i + 1) * UNIT] == self.units[slot][0]
                self.loaded += 1
                if exclusive:
                    del self.units[slot]

    @rule(slot=SLOTS)
    def invalidate(self, slot):
        assert self.z.invalidate(slot) == (slot in self.units)
        self.units.pop(slot, None)

    @rule(slots=st.lists(SLOTS, unique=True))
    def invalidate_many(self, slots):
        assert self.z.invalidate_many(slots) == len(set(slots) & set(self.units))
        for slot in slots:
            self.units.pop(slot, None)

    @rule(all=st.booleans())
    def recompress(self, all):
        before = self.z.counters()["recompressed"]
        n = self.z.recompress(all)
        assert n == 0 or self.options["cold_codec"]
        assert self.z.counters()["recompressed"] == before + n

    @rule(units=st.integers(1, 30), gentle=st.booleans())
    def shrink(self, units, gentle):
        assert self.z.shrink(units * UNIT, gentle=gentle) <= (units + 1) * UNIT

    @rule(codec=st.sampled_from(["lz4", "zstd", "zlib", "raw"]))
    def set_codec(self, codec):
        self.z.set_codec(codec)

    @rule()
    def compact(self):
        self.z.compact()

    @rule(name=st.sampled_from(NAMES), memory=LIMITS, zswap=LIMITS, swap=LIMITS,
          writeback=st.booleans())
    def group(self, name, memory, zswap, swap, writeback):
        parent = PARENT[name]
        if parent is not None and parent not in self.groups:
            return
        self.groups[name] = self.z.group(
            name, parent=parent, memory_max=memory, zswap_max=zswap, swap_max=swap,
            zswap_writeback=writeback,
        )

    @rule(name=st.sampled_from(NAMES))
    def remove_group(self, name):
        if name not in self.groups or (name == "b" and "c" in self.groups):
            return
        self.groups.pop(name).remove()
        for slot, (data, group) in self.units.items():
            if group == name:
                self.units[slot] = (data, PARENT[name])

    @rule(name=st.sampled_from(NAMES), units=st.integers(1, 5))
    def shrink_group(self, name, units):
        if name in self.groups:
            self.groups[name].shrink(units * UNIT)

    @precondition(lambda self: self.options["swap"] is not None)
    @rule(seed=st.integers(0, 1000), write=st.sampled_from([0, 0.3, 1.0]),
          read=st.sampled_from([0, 0.3]))
    def faults(self, seed, write, read):
        FaultPlan([
            Fault("write", "error", probability=write), Fault("read", "error", probability=read),
            Fault("read", "flip", probability=read), Fault("write", "short", probability=0.5),
        ], seed).install(self.z.swap)
        self.faulty = read > 0

    @precondition(lambda self: self.options["swap"] is not None)
    @rule()
    def repair(self):
        FaultPlan([]).install(self.z.swap)
        self.faulty = False

    # -- what must hold ----------------------------------------------------------------------------
    @invariant()
    def agree(self):
        if not hasattr(self, "z"):
            return
        z = self.z
        z.check_valid("full")
        c, s = z.counters(), z.stats()
        filled = sum(data == data[:8] * (UNIT // 8) for data, _ in self.units.values())
        assert len(z) == len(self.units) == c["stored_pages"] + c["disk_pages"]
        assert c["same_filled_pages"] == filled
        assert c["zswpout"] == self.stored
        assert c["zswpin"] + c["swpin_disk"] == self.loaded
        assert sum(n for name, n in c.items() if name.startswith("reject")) == self.refused
        assert c["zswpwb"] == c["written_back_pages"] >= c["disk_pages"]
        assert sum(s["codecs"].values()) == len(self.units) - filled
        assert s["pool_peak_bytes"] <= s["pool_limit_bytes"]
        assert c["write_errors"] <= c["writeback_fail"]
        if z.swap is not None:
            z.swap.check_valid()
            assert s["disk_bytes"] == z.swap.used_bytes
        for name, group in self.groups.items():
            g = group.stats()
            mine = [slot for slot, (_, of) in self.units.items()
                    if of == name or (of is not None and PARENT[of] == name)]
            assert g["zswapped"] + g["swapped"] == len(mine) * UNIT
            assert g["memory"] == g["zswap"] + 80 * len(mine)

    def see_all(self):
        FaultPlan([]).install(self.z.swap) if self.z.swap is not None else None
        out = bytearray(UNIT)
        for slot in range(30):
            assert (slot in self.z) == (slot in self.units)
        for slot, (data, _) in self.units.items():
            self.z.load(slot, out)
            assert out == data


Model.TestCase.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestModel = Model.TestCase


class Forgetful(Model):
    """The canary: its model forgets to forget."""

    @rule(slot=SLOTS)
    def invalidate(self, slot):
        self.z.invalidate(slot)


def test_the_model_finds_a_planted_error():
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            Forgetful,
            settings=settings(max_examples=200, deadline=None, database=None, print_blob=False,
                              phases=[Phase.generate],
                              report_multiple_bugs=False,
                              suppress_health_check=list(HealthCheck)),
        )
