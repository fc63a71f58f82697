"""A discrete-event simulation of the engine's locks on any number of cores.

Owns: nothing; works on the `SimC` of one `coldmem.lab.scale_simulation.Simulation`. Takes no locks.
Guarantees: the same arguments and seed give the same events, in the same order, on any machine; no
operation is lost: those started are those done and one in flight per task that has had a core; all
time of all tasks is in exactly one mode.
The mutex is that of linux/lock.py, word for word: one compare-and-swap, 40 looks, then an exchange with
2 and the futex; whoever unlocks a word of 2 wakes one sleeper; a running thread may take the lock before
the woken one comes. With ``fifo`` it is the kernel's queued spinlock instead. The reader-writer lock is
the one of the same file: a writer closes the door and waits for the readers who are in.
Tasks that outnumber the cores share them in turns of one time slice, the holder of a lock as well.
Assumes: an operation is a list of steps, each of lock-free work and then at most one lock. Not here:
caches, memory bandwidth, NUMA; what a core pays for a line that another had last is a number per step.
"""

import cython
from cython.cimports.libc.stdint import int32_t, uint32_t
from cython.cimports.libc.stdlib import realloc


# -- the heap of events ----------------------------------------------------------------------------
def sim_push(s, t, kind, who, token):
    i: uint32_t = s.heap_n
    up: uint32_t
    more: cython.p_void
    if i == s.heap_max:
        more = realloc(s.heap, 2 * s.heap_max * cython.sizeof(Event))
        if more == cython.NULL:
            s.failed = 1
            return
        s.heap = cython.cast(EventP, more)
        s.heap_max *= 2
    s.heap_n += 1
    while i:
        up = (i - 1) // 2
        if s.heap[up].t <= t:  # of equals the older comes first
            break
        s.heap[i] = s.heap[up]
        i = up
    s.heap[i].t = t
    s.heap[i].seq = s.seq
    s.heap[i].kind = kind
    s.heap[i].who = who
    s.heap[i].token = token
    s.seq += 1


def sim_pop(s):
    top: Event = s.heap[0]
    last: Event
    i: uint32_t = 0
    down: uint32_t
    s.heap_n -= 1
    last = s.heap[s.heap_n]
    while True:
        down = 2 * i + 1
        if down >= s.heap_n:
            break
        if down + 1 < s.heap_n and (
            s.heap[down + 1].t < s.heap[down].t
            or (s.heap[down + 1].t == s.heap[down].t and s.heap[down + 1].seq < s.heap[down].seq)
        ):
            down += 1
        if last.t < s.heap[down].t or (last.t == s.heap[down].t and last.seq < s.heap[down].seq):
            break
        s.heap[i] = s.heap[down]
        i = down
    s.heap[i] = last
    return top


# -- tasks and cores -------------------------------------------------------------------------------
def core_run(s, core, i):
    """Give the task the core and let it go on where it was."""
    k: TaskP = cython.address(s.tasks[i])
    switch: cython.double = 0.0
    if s.tasks_n > s.cores_n:
        switch = s.switch_ns
        s.cores[core].slice_token += 1
        sim_push(s, s.now + s.slice_ns, EVENT_SLICE, core, s.cores[core].slice_token)
    s.cores[core].task = i
    k.core = core
    k.home = core
    sim_mode(s, k, k.resume_mode)
    if k.then == THEN_SPIN_OUT:
        # Looks again first: the lock may have become free, or a queue of sleepers may have formed.
        if s.locks[k.lock].word == 1:
            list_append(s, cython.address(s.locks[k.lock].spinners), i)
        else:
            k.then = THEN_RETRY if s.locks[k.lock].word == 2 else THEN_STEP
            k.left = 0.0
    sim_segment(s, i, k.left + switch, k.then)


def core_next(s, core):
    i: int32_t = s.ready.first
    if i >= 0:
        list_remove(s, cython.address(s.ready), i)
        core_run(s, core, i)
    else:
        s.cores[core].task = -1
        s.idle_n += 1


def core_give_up(s, i):
    """The task sleeps; its core takes the next one."""
    k: TaskP = cython.address(s.tasks[i])
    core: int32_t = k.core
    sim_mode(s, k, MODE_SLEEP)
    k.token += 1
    k.core = -1
    core_next(s, core)


def task_wake(s, i):
    """A sleeper can run: on a core that is idle, its own if that is, or after those who wait."""
    k: TaskP = cython.address(s.tasks[i])
    core: int32_t
    k.left = 0.0
    k.resume_mode = MODE_CALL if k.then == THEN_RETRY else MODE_WORK
    if s.idle_n:
        core = k.home
        if s.cores[core].task >= 0:
            core = 0
            while s.cores[core].task >= 0:
                core += 1
        s.idle_n -= 1
        core_run(s, core, i)
        return
    sim_mode(s, k, MODE_READY)
    list_append(s, cython.address(s.ready), i)


def slice_end(s, core):
    """The task's turn is over, whatever it does or holds, if another one waits for a core."""
    i: int32_t = s.cores[core].task
    k: TaskP
    if i < 0:
        return
    if s.ready.count == 0:
        sim_push(s, s.now + s.slice_ns, EVENT_SLICE, core, s.cores[core].slice_token)
        return
    k = cython.address(s.tasks[i])
    k.left = k.end - s.now
    if k.rw_waiting:
        list_remove(s, cython.address(s.rw_wait), i)
        k.rw_waiting = 0
        k.left = 0.0
        k.then = THEN_RW_RETRY
    elif k.then == THEN_SPIN_OUT:
        list_remove(s, cython.address(s.locks[k.lock].spinners), i)
    k.token += 1
    k.resume_mode = k.mode
    k.core = -1
    sim_mode(s, k, MODE_READY)
    list_append(s, cython.address(s.ready), i)
    core_next(s, core)


# -- the mutex -------------------------------------------------------------------------------------
def lock_attempt(s, i):
    """The one compare-and-swap of the fast path, and what follows when it fails."""
    k: TaskP = cython.address(s.tasks[i])
    m: LockP = cython.address(s.locks[k.lock])
    k.wait_since = s.now
    if m.word == 0:
        lock_acquire(s, i, 1, 0.0)
        return
    m.contended += 1
    m.touched = 1
    sim_mode(s, k, MODE_SPIN)
    if s.fifo:
        list_append(s, cython.address(m.sleepers), i)
    elif m.word == 2:
        lock_exchange(s, i)
    else:
        list_append(s, cython.address(m.spinners), i)
        sim_segment(s, i, s.spin_ns, THEN_SPIN_OUT)


def lock_acquire(s, i, word, more):
    k: TaskP = cython.address(s.tasks[i])
    m: LockP = cython.address(s.locks[k.lock])
    step: StepP = cython.address(s.steps[k.step])
    ns: cython.double = more + sim_draw(s, step.hold, s.hold_shape)
    if m.last != k.core and m.last >= 0:
        ns += step.line
    if k.cold:
        ns += step.remote
    m.word = word
    m.owner = i
    m.touched = 0
    m.last = k.core
    m.since = s.now
    m.waited += s.now - k.wait_since
    m.acquisitions += 1
    sim_mode(s, k, MODE_HOLD)
    sim_segment(s, i, ns, THEN_RELEASE)


def lock_exchange(s, i):
    """Exchange the word with 2: take the lock, or go and sleep. Who spins sees the 2 and comes too."""
    k: TaskP = cython.address(s.tasks[i])
    m: LockP = cython.address(s.locks[k.lock])
    other: int32_t
    if m.word == 0:
        lock_acquire(s, i, 2, 0.0)
        return
    m.word = 2
    sim_mode(s, k, MODE_CALL)
    sim_segment(s, i, s.park_ns, THEN_PARK)
    while m.spinners.first >= 0:
        other = m.spinners.first
        list_remove(s, cython.address(m.spinners), other)
        sim_mode(s, cython.address(s.tasks[other]), MODE_CALL)
        sim_segment(s, other, s.grab_ns + s.park_ns, THEN_PARK)


def lock_release(s, i):
    k: TaskP = cython.address(s.tasks[i])
    m: LockP = cython.address(s.locks[k.lock])
    other: int32_t
    before: int32_t = m.word
    m.busy += s.now - m.since
    m.word = 0
    m.owner = -1
    if s.fifo:
        other = m.sleepers.first
        if other >= 0:
            list_remove(s, cython.address(m.sleepers), other)
            lock_acquire(s, other, 1, s.grab_ns)
    elif before == 2:
        sim_mode(s, k, MODE_CALL)
        other = m.sleepers.first
        if other >= 0:
            list_remove(s, cython.address(m.sleepers), other)
            s.tasks[other].token += 1
            s.tasks[other].then = THEN_RETRY
            sim_push(s, s.now + s.wake_latency_ns, EVENT_WAKE, other, s.tasks[other].token)
            sim_segment(s, i, s.wake_ns, THEN_NEXT)
        else:
            sim_segment(s, i, s.wake_none_ns, THEN_NEXT)
    if m.spinners.count:
        m.grab_token += 1
        sim_push(
            s, s.now + s.grab_ns + sim_uniform(s) * s.spin_step_ns / (m.spinners.count + 1),
            EVENT_GRAB, k.lock, m.grab_token,
        )
    if before != 2 or s.fifo:
        step_done(s, i)


def lock_grab(s, lock):
    """One of those who spin sees that the lock is free, unless it was taken again meanwhile."""
    m: LockP = cython.address(s.locks[lock])
    i: int32_t = m.spinners.first
    n: int32_t
    if m.word or i < 0:
        return
    n = cython.cast(int32_t, (1.0 - sim_uniform(s)) * m.spinners.count)
    while n > 0:
        i = s.tasks[i].next
        n -= 1
    list_remove(s, cython.address(m.spinners), i)
    lock_acquire(s, i, 1, 0.0)


# -- the reader-writer lock, and the one shared word -----------------------------------------------
def rw_attempt(s, i):
    k: TaskP = cython.address(s.tasks[i])
    step: StepP = cython.address(s.steps[k.step])
    if step.kind == STEP_READ:
        if s.rw_writer < 0:
            s.rw_readers += 1
            s.rw_reads += 1
            sim_mode(s, k, MODE_HOLD)
            sim_segment(s, i, sim_draw(s, step.hold, s.hold_shape), THEN_READ_END)
            return
    elif s.rw_writer < 0 or s.rw_writer == i:
        s.rw_writer = i  # closes the door
        k.writing = 1
        if s.rw_readers == 0:
            s.rw_in = 1
            s.rw_writes += 1
            lock_attempt(s, i)
            return
    sim_mode(s, k, MODE_SPIN)
    list_append(s, cython.address(s.rw_wait), i)
    k.rw_waiting = 1
    k.token += 1


def rw_open(s):
    """Something has changed: those who wait, and run, try again in their order."""
    i: int32_t = s.rw_wait.first
    n: int32_t = s.rw_wait.count
    while n > 0:
        list_remove(s, cython.address(s.rw_wait), i)
        s.tasks[i].rw_waiting = 0
        sim_segment(s, i, s.grab_ns, THEN_RW_RETRY)
        i = s.rw_wait.first
        n -= 1


def line_use(s, i):
    """An atomic change of one word: cores take turns, and one that was not there last waits longer."""
    k: TaskP = cython.address(s.tasks[i])
    step: StepP = cython.address(s.steps[k.step])
    begin: cython.double = s.line_free_at if s.line_free_at > s.now else s.now
    ns: cython.double = step.hold if s.line_last == k.core else step.line
    s.line_free_at = begin + ns
    s.line_busy += ns
    s.line_last = k.core
    s.line_ops += 1
    sim_mode(s, k, MODE_SPIN)
    sim_segment(s, i, s.line_free_at - s.now, THEN_NEXT)


# -- operations ------------------------------------------------------------------------------------
def step_begin(s, i):
    k: TaskP = cython.address(s.tasks[i])
    step: StepP = cython.address(s.steps[k.step])
    ns: cython.double = sim_draw(s, step.work, s.work_shape)
    if k.cold and step.kind == STEP_WORK:
        ns += step.remote
    sim_mode(s, k, MODE_WORK)
    sim_segment(s, i, ns, THEN_STEP)


def step_done(s, i):
    """On to the next step, or to the next operation."""
    k: TaskP = cython.address(s.tasks[i])
    u: cython.double
    last: cython.pointer(int32_t)
    k.step += 1
    if k.step == cython.cast(int32_t, s.op_at[k.op + 1]):
        if k.helper == 0 and k.ops:
            s.ops += 1
            if s.ops == s.warm_ops:
                sim_warm(s)
        k.ops += 1
        if k.helper:
            k.op = s.ops_n
        else:
            s.started += 1
            u = sim_uniform(s)
            k.op = 0
            while s.op_cum[k.op] < u:
                k.op += 1
        k.step = s.op_at[k.op]
        k.pool = cython.cast(int32_t, (1.0 - sim_uniform(s)) * s.pools_n)
        u = sim_uniform(s)
        k.klass = 0
        while s.class_cum[k.klass] < u:
            k.klass += 1
        last = cython.address(s.data_last[k.pool * s.classes_n + k.klass])
        k.cold = last[0] != k.core and last[0] >= 0
        last[0] = k.core
    step_begin(s, i)


def step_lock(s, i):
    """The work of a step is done."""
    k: TaskP = cython.address(s.tasks[i])
    step: StepP = cython.address(s.steps[k.step])
    if step.kind == STEP_WORK or (step.prob < 1.0 and sim_uniform(s) > step.prob):
        step_done(s, i)
        return
    if step.kind == STEP_POOL:
        k.lock = k.pool
    elif step.kind == STEP_CLASS or step.kind == STEP_WRITE:
        k.lock = s.pools_n + k.pool * s.classes_n + k.klass
    elif step.kind == STEP_ARENA:
        k.lock = s.pools_n * (1 + s.classes_n) + k.pool
    if step.kind == STEP_LINE:
        line_use(s, i)
    elif step.kind == STEP_READ or step.kind == STEP_WRITE:
        rw_attempt(s, i)
    elif step.kind == STEP_SLEEP:
        k.then = THEN_NEXT
        core_give_up(s, i)
        sim_push(s, s.now + sim_draw(s, step.hold, s.work_shape), EVENT_WAKE, i, k.token)
    else:
        lock_attempt(s, i)


def task_go_on(s, i):
    """A segment has come to its end."""
    k: TaskP = cython.address(s.tasks[i])
    if k.then == THEN_STEP:
        if k.mode == MODE_SPIN:
            lock_attempt(s, i)  # it came back to a lock that had become free
        else:
            step_lock(s, i)
    elif k.then == THEN_RELEASE:
        if s.locks[k.lock].touched and s.steal_ns > 0.0:
            s.locks[k.lock].touched = 0  # whoever tried has the line: it must come back first
            sim_segment(s, i, s.steal_ns, THEN_RELEASE)
            return
        if k.writing:
            k.writing = 0
            s.rw_in = 0
            s.rw_writer = -1
            rw_open(s)
        lock_release(s, i)
    elif k.then == THEN_SPIN_OUT:
        list_remove(s, cython.address(s.locks[k.lock].spinners), i)
        lock_exchange(s, i)
    elif k.then == THEN_PARK:
        if s.locks[k.lock].word == 2:
            list_append(s, cython.address(s.locks[k.lock].sleepers), i)
            core_give_up(s, i)
        else:
            lock_exchange(s, i)
    elif k.then == THEN_RETRY:
        lock_exchange(s, i)
    elif k.then == THEN_NEXT:
        step_done(s, i)
    elif k.then == THEN_READ_END:
        s.rw_readers -= 1
        if s.rw_readers == 0 and s.rw_writer >= 0:
            rw_open(s)
        step_done(s, i)
    else:
        rw_attempt(s, i)


# -- the whole -------------------------------------------------------------------------------------
def sim_warm(s):
    """From here on it counts."""
    i: uint32_t
    m: cython.int
    s.warm_at = s.now
    s.line_busy = 0.0
    s.line_ops = 0
    s.rw_reads = 0
    s.rw_writes = 0
    for i in range(s.locks_n):
        s.locks[i].busy = 0.0
        s.locks[i].waited = 0.0
        s.locks[i].acquisitions = 0
        s.locks[i].contended = 0
        s.locks[i].since = s.now
    for i in range(s.tasks_n):
        s.tasks[i].since = s.now
        for m in range(MODES):
            s.tasks[i].spent[m] = 0.0


def sim_run(s, ops):
    """Go on until so many operations are done; what happens at one moment happens in its order."""
    e: Event
    while s.ops < ops and s.heap_n and s.failed == 0:
        e = sim_pop(s)
        s.now = e.t
        s.events += 1
        if e.kind == EVENT_TASK:
            if s.tasks[e.who].token == e.token and s.tasks[e.who].core >= 0:
                task_go_on(s, e.who)
        elif e.kind == EVENT_SLICE:
            if s.cores[e.who].slice_token == e.token:
                slice_end(s, e.who)
        elif e.kind == EVENT_GRAB:
            if s.locks[e.who].grab_token == e.token:
                lock_grab(s, e.who)
        elif s.tasks[e.who].token == e.token:
            task_wake(s, e.who)
