"""`Simulation`: threads, cores and locks as Python sees them. The rules are in scale_sim.py.

Owns: the C arrays of one simulation. Takes no locks; runs without the GIL, one call at a time.
"""

import cython
from cython.cimports.coldmem.lab.scale_sim import (
    MODES,
    Core,
    Event,
    EventP,
    Lock,
    LockP,
    SimP,
    Step,
    StepP,
    Task,
    TaskP,
    core_run,
    list_append,
    sim_run,
    sim_warm,
)
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset

from coldmem.errors import UsageError

KINDS = ("work", "pool", "class", "arena", "line", "read", "write", "sleep")
MODE_NAMES = ("work", "hold", "spin", "call", "ready", "sleep")
COSTS = ("spin_ns", "spin_step_ns", "grab_ns", "steal_ns", "park_ns", "wake_ns", "wake_none_ns",
         "wake_latency_ns", "switch_ns", "slice_ns")
BATCHES = 16
SEED = cython.declare(uint64_t, 0x9E3779B97F4A7C15)
TASKS_MAX = 65536
HEAP_FIRST = 1024


class Simulation:
    """Threads that do operations, each a list of steps, on cores that they may have to share.

    Parameters
    ----------
    programs : sequence of sequences of (str, float, float, float, float, float)
        An operation each, of steps (kind, work_ns, probability, hold_ns, line_ns, remote_ns); kinds are
        those of `KINDS`. Lock-free work comes first; then, with the probability, what the kind says:
        hold a lock of that kind for `hold_ns`, and `line_ns` longer when another core had the lock last,
        `remote_ns` when another core had the data of this pool and class last (of ``work``: works
        longer). ``line``: change a word that all share, in turn, `hold_ns` on the core that had it
        last and `line_ns` on another.
        ``sleep``: leave the core for `hold_ns`.
    mix : sequence of float
        How often each operation is done, in any unit.
    threads, cores : int
        How many of each; more threads than cores take turns.
    classes : sequence of float
        Popularity of each size class, in any unit.
    pools : int
        Pools, equally popular; each has its own classes and arena.
    helper : sequence of steps, optional
        An operation that one more thread repeats, which counts for nothing (a compactor).
    costs : mapping of str to float
        `COSTS` in nanoseconds: for how long a thread spins, how often it looks, what it takes from
        unlocking until another core that spins has the lock, what unlocking takes longer when somebody
        has tried in vain, calls that sleep and wake, from the wake call until the sleeper runs, a change
        of threads on a core, a turn. Those not given are 0.
    shapes : (int, int)
        Erlang shapes of work and holds: 0 always the mean, 1 exponential, more: narrower.
    fifo : bool
        Locks are handed on in the order of arrival and nobody sleeps (the kernel's spinlock).
    seed : int
        Of all chance.

    Raises
    ------
    UsageError
        An argument out of its range, an operation without steps, or ``fifo`` with more threads than
        cores.
    """

    def __cinit__(self):
        memset(cython.address(self.c), 0, cython.sizeof(self.c))

    def __init__(self, programs, mix, threads, cores, classes=(1.0,), pools=1, helper=None, costs=None,
                 shapes=(0, 0), fifo=False, seed=1):
        costs = dict(costs or {})
        unknown = set(costs) - set(COSTS)
        if unknown or any(not value >= 0 for value in costs.values()):
            raise UsageError(f"costs must be of {', '.join(COSTS)}, and not negative: {costs}")
        if not 1 <= threads < TASKS_MAX or cores < 1 or pools < 1:
            raise UsageError(f"{threads} threads, {cores} cores, {pools} pools: each must be 1 or more")
        if len(mix) != len(programs) or not classes or min(*mix, *classes) < 0 or (
                not sum(mix) > 0 or not sum(classes) > 0):
            raise UsageError("mix and classes must have a weight of 0 or more each, not all 0")
        if fifo and threads + bool(helper) > cores:
            raise UsageError("fifo locks are for threads that have a core each")
        if threads + bool(helper) > cores and not costs.get("slice_ns", 0) > 0:
            raise UsageError("threads that share cores need slice_ns")
        if self.c.tasks != cython.NULL:
            raise UsageError("a simulation cannot be initialised twice")
        programs = [list(program) for program in programs]
        for program in [*programs, *([helper] if helper else [])]:
            self._check(program)
        self.tasks = threads + bool(helper)
        self.cores = cores
        self.c.tasks_n = self.tasks
        self.c.cores_n = cores
        self.c.pools_n = pools
        self.c.classes_n = len(classes)
        self.c.locks_n = pools * (2 + len(classes))
        self.c.ops_n = len(programs)
        self.c.fifo = bool(fifo)
        self.c.work_shape, self.c.hold_shape = shapes
        self.c.rng = (SEED * cython.cast(uint64_t, 2 * seed + 1)) | 1
        self.c.spin_ns = costs.get("spin_ns", 0)
        self.c.spin_step_ns = costs.get("spin_step_ns", 0)
        self.c.grab_ns = costs.get("grab_ns", 0)
        self.c.steal_ns = costs.get("steal_ns", 0)
        self.c.park_ns = costs.get("park_ns", 0)
        self.c.wake_ns = costs.get("wake_ns", 0)
        self.c.wake_none_ns = costs.get("wake_none_ns", 0)
        self.c.wake_latency_ns = costs.get("wake_latency_ns", 0)
        self.c.switch_ns = costs.get("switch_ns", 0)
        self.c.slice_ns = costs.get("slice_ns", 0)
        self._allocate()
        self._fill([*programs, list(helper or [])], mix, classes)
        if helper:
            self.c.tasks[threads].helper = 1
        self._start()

    def _check(self, program):
        if not program:
            raise UsageError("an operation must have a step")
        for step in program:
            if len(step) != 6 or step[0] not in KINDS or min(step[1:]) < 0:
                raise UsageError(f"a step is (kind, 5 numbers of 0 or more), not {step}")
        if all(step[1] == 0 and (step[0] == "work" or step[2] * step[3] == 0)
               for step in program):
            raise UsageError("an operation must take time")

    def _allocate(self):
        c: SimP = cython.address(self.c)
        c.heap_max = HEAP_FIRST
        c.heap = cython.cast(EventP, calloc(c.heap_max, cython.sizeof(Event)))
        c.tasks = cython.cast(TaskP, calloc(c.tasks_n, cython.sizeof(Task)))
        c.cores = cython.cast(cython.pointer(Core), calloc(c.cores_n, cython.sizeof(Core)))
        c.locks = cython.cast(LockP, calloc(c.locks_n, cython.sizeof(Lock)))
        c.data_last = cython.cast(cython.pointer(int32_t), calloc(c.pools_n * c.classes_n, 4))
        c.op_at = cython.cast(cython.pointer(uint32_t), calloc(c.ops_n + 2, 4))
        c.op_cum = cython.cast(cython.p_double, calloc(c.ops_n, 8))
        c.class_cum = cython.cast(cython.p_double, calloc(c.classes_n, 8))
        if (c.heap == cython.NULL or c.tasks == cython.NULL or c.cores == cython.NULL
                or c.locks == cython.NULL or c.data_last == cython.NULL or c.op_at == cython.NULL
                or c.op_cum == cython.NULL or c.class_cum == cython.NULL):
            raise MemoryError("no memory for the simulation")

    def _fill(self, programs, mix, classes):
        c: SimP = cython.address(self.c)
        n: uint32_t = 0
        i: uint32_t
        step: StepP
        c.steps = cython.cast(StepP, calloc(1 + sum(map(len, programs)), cython.sizeof(Step)))
        if c.steps == cython.NULL:
            raise MemoryError("no memory for the simulation")
        for i, program in enumerate(programs):
            for kind, work, probability, hold, line, remote in program:
                step = cython.address(c.steps[n])
                step.kind = KINDS.index(kind)
                step.work, step.prob, step.hold = work, probability, hold
                step.line, step.remote = line, remote
                n += 1
            c.op_at[i + 1] = n
        for array, weights in ((0, mix), (1, classes)):
            total, so_far = sum(weights), 0.0
            for i, weight in enumerate(weights):
                so_far += weight
                if array:
                    c.class_cum[i] = so_far / total
                else:
                    c.op_cum[i] = so_far / total
        c.op_cum[c.ops_n - 1] = c.class_cum[c.classes_n - 1] = 1.0

    def _start(self):
        c: SimP = cython.address(self.c)
        k: TaskP
        i: int32_t
        c.ready.first = c.ready.last = c.rw_wait.first = c.rw_wait.last = -1
        c.rw_writer = c.line_last = -1
        for i in range(cython.cast(int32_t, c.locks_n)):
            c.locks[i].owner = c.locks[i].last = -1
            c.locks[i].spinners.first = c.locks[i].spinners.last = -1
            c.locks[i].sleepers.first = c.locks[i].sleepers.last = -1
        for i in range(cython.cast(int32_t, c.pools_n * c.classes_n)):
            c.data_last[i] = -1
        for i in range(cython.cast(int32_t, c.cores_n)):
            c.cores[i].task = -1
        c.idle_n = c.cores_n
        for i in range(cython.cast(int32_t, c.tasks_n)):
            k = cython.address(c.tasks[i])
            k.core = -1
            k.home = i % cython.cast(int32_t, c.cores_n)
            k.op = c.ops_n if k.helper else 0
            # Its first operation begins where one that was never begun would end.
            k.step = cython.cast(int32_t, c.op_at[k.op + 1]) - 1
            k.then = 5  # THEN_NEXT
            k.mode = k.resume_mode = 0 if i < cython.cast(int32_t, c.cores_n) else 4
            if i < cython.cast(int32_t, c.cores_n):
                c.idle_n -= 1
                core_run(c, i, i)
            else:
                k.resume_mode = 0
                list_append(c, cython.address(c.ready), i)

    def __dealloc__(self):
        free(self.c.heap)
        free(self.c.tasks)
        free(self.c.cores)
        free(self.c.locks)
        free(self.c.data_last)
        free(self.c.op_at)
        free(self.c.op_cum)
        free(self.c.class_cum)
        free(self.c.steps)

    def run(self, ops, warm=None):
        """Do `ops` operations that count, after `warm` that do not; what came of it."""
        c: SimP = cython.address(self.c)
        upto: uint64_t
        if ops < BATCHES:
            raise UsageError(f"--ops must be {BATCHES} or more")
        first: uint64_t = c.ops + (ops // 8 if warm is None else warm)
        with cython.nogil:
            sim_run(c, first)
            sim_warm(c)
        ends = [c.now]
        for batch in range(BATCHES):
            upto = first + ops * (batch + 1) // BATCHES
            with cython.nogil:
                sim_run(c, upto)
            ends.append(c.now)
        if c.failed:
            raise MemoryError("no memory for the events of the simulation")
        return self._result(ops, ends)

    def _result(self, ops, ends):
        c: SimP = cython.address(self.c)
        i: uint32_t
        m: cython.int
        spent = dict.fromkeys(MODE_NAMES, 0.0)
        helper = dict.fromkeys(MODE_NAMES, 0.0)
        done = []
        for i in range(c.tasks_n):
            into = helper if c.tasks[i].helper else spent
            for m in range(MODES):
                into[MODE_NAMES[m]] += c.tasks[i].spent[m]
            into[MODE_NAMES[c.tasks[i].mode]] += c.now - c.tasks[i].since
            done.append(c.tasks[i].ops - 1 if c.tasks[i].ops else 0)  # 0: not had a core yet
        return {
            "ops": ops, "elapsed_ns": ends[BATCHES] - ends[0], "ends_ns": ends, "events": c.events,
            "started": c.started, "done": c.ops, "done_by_thread": done, "spent_ns": spent,
            "helper_ns": helper, "locks": self._locks(),
        }

    def _locks(self):
        """Per kind: acquisitions, those that waited, waiting and busy time, and the busiest one's."""
        c: SimP = cython.address(self.c)
        i: uint32_t
        m: LockP
        busy: cython.double
        found = {kind: {"acquisitions": 0, "contended": 0, "waited_ns": 0.0, "busy_ns": 0.0,
                        "busiest_ns": 0.0} for kind in KINDS[1:5]}
        for i in range(c.locks_n):
            kind = "pool" if i < c.pools_n else (
                "class" if i < c.pools_n * (1 + c.classes_n) else "arena")
            m = cython.address(c.locks[i])
            busy = m.busy + (c.now - m.since if m.owner >= 0 else 0.0)
            one = found[kind]
            one["acquisitions"] += m.acquisitions
            one["contended"] += m.contended
            one["waited_ns"] += m.waited
            one["busy_ns"] += busy
            one["busiest_ns"] = max(one["busiest_ns"], busy)
        found["line"].update(acquisitions=c.line_ops, busy_ns=c.line_busy, busiest_ns=c.line_busy)
        found["rw"] = {"reads": c.rw_reads, "writes": c.rw_writes}
        return found
