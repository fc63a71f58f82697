"""Where a thread of this process runs."""

import os
import threading

from coldmem.linux.task import cpu_of


def test_a_thread_that_may_run_on_one_cpu_only_runs_there():
    found = {}

    def look(cpu):
        os.sched_setaffinity(0, {cpu})
        found[cpu] = cpu_of(threading.get_native_id())

    for cpu in sorted(os.sched_getaffinity(0))[:4]:
        thread = threading.Thread(target=look, args=(cpu,))
        thread.start()
        thread.join()
        assert found[cpu] == cpu


def test_a_thread_with_a_strange_name_and_none_at_all():
    threading.current_thread()
    with open(f"/proc/self/task/{threading.get_native_id()}/comm", "r+") as file:
        before = file.read().strip()
        file.seek(0)
        file.write("a ) b (c) d")
        file.flush()
        try:
            assert cpu_of(threading.get_native_id()) in range(os.cpu_count() or 1)
        finally:
            file.seek(0)
            file.write(before)
    assert cpu_of((1 << 22) + 7) == -1
