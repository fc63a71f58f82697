# A discrete-event simulation of threads, cores and locks. Times are double, in nanoseconds.
from libc.math cimport log
from libc.stdint cimport int32_t, uint32_t, uint64_t

from coldmem.lab.gate cimport next_random

cdef enum StepKind:             # what a step does once its lock-free work is over
    STEP_WORK = 0               # nothing
    STEP_POOL = 1               # hold the lock of a pool
    STEP_CLASS = 2              # hold the lock of a size class
    STEP_ARENA = 3              # hold the lock of an arena
    STEP_LINE = 4               # change one word that all cores share
    STEP_READ = 5               # hold the reader-writer lock for reading
    STEP_WRITE = 6              # hold it for writing, and a class lock inside
    STEP_SLEEP = 7              # leave the core for a while

cdef enum:
    STEP_KINDS = 8

cdef enum Then:                 # what a task does at the end of its segment
    THEN_STEP = 0               # its work is done: the step's lock is next
    THEN_RELEASE = 1
    THEN_SPIN_OUT = 2           # it has spun for long enough
    THEN_PARK = 3               # it is in the kernel: sleep, if the word still says so
    THEN_RETRY = 4              # it was woken
    THEN_NEXT = 5
    THEN_READ_END = 6
    THEN_RW_RETRY = 7

cdef enum Mode:
    MODE_WORK = 0
    MODE_HOLD = 1
    MODE_SPIN = 2
    MODE_CALL = 3               # in system calls that wait or wake, and changing threads
    MODE_READY = 4              # could run, had it a core
    MODE_SLEEP = 5

cdef enum:
    MODES = 6

cdef enum EventKind:
    EVENT_TASK = 0
    EVENT_SLICE = 1
    EVENT_GRAB = 2
    EVENT_WAKE = 3

cdef struct Step:
    int32_t kind
    int32_t fill
    double prob                 # that the lock is taken; the work is done always
    double work                 # lock-free, before
    double hold
    double line                 # more when another core had the lock last
    double remote               # more of work, or of the hold, when the operation is cold

cdef struct Event:
    double t
    uint64_t seq
    uint64_t token
    int32_t kind
    int32_t who

cdef struct Task:
    double end                  # of the segment
    double left                 # of a segment that was interrupted
    double since                # begin of the mode
    double wait_since
    double spent[MODES]
    uint64_t token              # of the one event that is still meant
    uint64_t ops
    int32_t core                # -1: none
    int32_t home                # the core that it had last
    int32_t mode
    int32_t resume_mode
    int32_t then
    int32_t op
    int32_t step
    int32_t pool
    int32_t klass
    int32_t lock
    int32_t cold                # another core had the data of this operation last
    int32_t rw_waiting          # in the list of those who wait for the reader-writer lock
    int32_t writing             # holds, or has announced, the write side
    int32_t helper
    int32_t prev                # in one list at a time: spinners, sleepers, ready, waiting
    int32_t next

cdef struct List:
    int32_t first
    int32_t last
    int32_t count

cdef struct Lock:
    double since
    double busy
    double waited
    uint64_t acquisitions
    uint64_t contended
    uint64_t grab_token
    List spinners
    List sleepers
    int32_t word                # as in linux/lock.py: 0 free, 1 held, 2 held and somebody may sleep
    int32_t owner
    int32_t last                # core
    int32_t touched             # somebody tried in vain

cdef struct Core:
    int32_t task
    int32_t fill
    uint64_t slice_token

cdef struct SimC:
    double now
    double warm_at
    uint64_t seq
    uint64_t rng
    uint64_t events
    uint64_t ops
    uint64_t started
    uint64_t warm_ops
    uint64_t target_ops
    Event *heap
    uint32_t heap_n
    uint32_t heap_max
    uint32_t tasks_n
    uint32_t cores_n
    uint32_t locks_n
    uint32_t pools_n
    uint32_t classes_n
    uint32_t ops_n
    uint32_t failed             # no memory for an event
    Task *tasks
    Core *cores
    Lock *locks
    int32_t *data_last          # per pool and class: the core that had its data last
    Step *steps
    uint32_t *op_at             # ops_n + 2: steps of each operation; the last one is the helper's
    double *op_cum
    double *class_cum
    List ready
    List rw_wait
    int32_t rw_readers
    int32_t rw_writer           # -1 none; a task that waits for the readers, or is in
    int32_t rw_in
    int32_t idle_n
    double line_free_at
    double line_busy
    uint64_t line_ops
    uint64_t rw_reads
    uint64_t rw_writes
    int32_t line_last
    int32_t work_shape          # Erlang shape of work and holds; 0: always the mean
    int32_t hold_shape
    int32_t fifo                # locks are handed on in order and nobody sleeps
    double spin_ns
    double spin_step_ns
    double grab_ns
    double steal_ns
    double park_ns
    double wake_ns
    double wake_none_ns
    double wake_latency_ns
    double switch_ns
    double slice_ns

ctypedef SimC *SimP
ctypedef Task *TaskP
ctypedef Lock *LockP
ctypedef Step *StepP
ctypedef List *ListP
ctypedef Event *EventP

cdef void sim_push(SimC *s, double t, int32_t kind, int32_t who, uint64_t token) noexcept nogil
cdef Event sim_pop(SimC *s) noexcept nogil
cdef void core_give_up(SimC *s, int32_t i) noexcept nogil
cdef void core_run(SimC *s, int32_t core, int32_t i) noexcept nogil
cdef void core_next(SimC *s, int32_t core) noexcept nogil
cdef void task_wake(SimC *s, int32_t i) noexcept nogil
cdef void lock_attempt(SimC *s, int32_t i) noexcept nogil
cdef void lock_acquire(SimC *s, int32_t i, int32_t word, double more) noexcept nogil
cdef void lock_exchange(SimC *s, int32_t i) noexcept nogil
cdef void lock_release(SimC *s, int32_t i) noexcept nogil
cdef void lock_grab(SimC *s, int32_t lock) noexcept nogil
cdef void rw_attempt(SimC *s, int32_t i) noexcept nogil
cdef void rw_open(SimC *s) noexcept nogil
cdef void line_use(SimC *s, int32_t i) noexcept nogil
cdef void step_begin(SimC *s, int32_t i) noexcept nogil
cdef void step_lock(SimC *s, int32_t i) noexcept nogil
cdef void step_done(SimC *s, int32_t i) noexcept nogil
cdef void task_go_on(SimC *s, int32_t i) noexcept nogil
cdef void slice_end(SimC *s, int32_t core) noexcept nogil
cdef void sim_warm(SimC *s) noexcept nogil
# Go on until so many operations are done in all.
cdef void sim_run(SimC *s, uint64_t ops) noexcept nogil


# 0 < u <= 1
cdef inline double sim_uniform(SimC *s) noexcept nogil:
    return (<double> (next_random(&s.rng) >> 11) + 1.0) * (1.0 / 9007199254740992.0)


# Erlang of this shape: 0 always the mean, 1 exponential.
cdef inline double sim_draw(SimC *s, double mean, int32_t shape) noexcept nogil:
    cdef int32_t i
    cdef double product = 1.0
    if shape == 0 or mean <= 0.0:
        return mean
    for i in range(shape):
        product *= sim_uniform(s)
    return -mean * log(product) / shape


cdef inline void list_append(SimC *s, List *l, int32_t i) noexcept nogil:
    s.tasks[i].prev = l.last
    s.tasks[i].next = -1
    if l.last >= 0:
        s.tasks[l.last].next = i
    else:
        l.first = i
    l.last = i
    l.count += 1


cdef inline void list_remove(SimC *s, List *l, int32_t i) noexcept nogil:
    cdef Task *k = &s.tasks[i]
    if k.prev >= 0:
        s.tasks[k.prev].next = k.next
    else:
        l.first = k.next
    if k.next >= 0:
        s.tasks[k.next].prev = k.prev
    else:
        l.last = k.prev
    l.count -= 1


cdef inline void sim_mode(SimC *s, Task *k, int32_t mode) noexcept nogil:
    k.spent[k.mode] += s.now - k.since
    k.since = s.now
    k.mode = mode


# The task runs for `ns`, and then goes on with `then`. Whatever it was to do before is off.
cdef inline void sim_segment(SimC *s, int32_t i, double ns, int32_t then) noexcept nogil:
    cdef Task *k = &s.tasks[i]
    k.then = then
    k.end = s.now + ns
    k.token += 1
    sim_push(s, k.end, EVENT_TASK, i, k.token)
