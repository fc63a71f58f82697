import threading

from coldmem.memory.manager import Manager

RECLAIM: int
READ_AHEAD: int

class Runner:
    def run(self) -> None: ...

def start_thread(manager: Manager, name: str, cpu: int) -> threading.Thread: ...
