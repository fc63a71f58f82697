"""Writes to a persistent cache, by a plan from a seed, until it is killed; tells what is durable."""

import os
import random
import sys


def plan(seed):
    """Endless operations: ("set", key, value), ("delete", key), ("flush",)."""
    pick = random.Random(seed)
    serial = 0
    while True:
        for _ in range(pick.choice([1, 10, 60])):
            serial += 1
            key = pick.choice(
                [pick.randrange(60), f"key {pick.randrange(30)}", ("side", pick.randrange(10))])
            if pick.random() < 0.2:
                yield "delete", key
            else:
                yield "set", key, value_of(key, seed, serial, pick)
        yield ("flush",)


def value_of(key, seed, serial, pick):
    body = pick.choice([b"%d;" % serial * 40, pick.randbytes(pick.choice([10, 3000, 9000, 100_000]))])
    value = repr((key, seed, serial)).encode() + b"|" + body
    return value if serial % 5 else [serial, value]


def main(folder, seed):
    from coldmem import Cache

    cache = Cache("1MiB", path=folder)
    os.write(1, b".")
    for n, operation in enumerate(plan(seed)):
        if operation[0] == "set":
            cache[operation[1]] = operation[2]
        elif operation[0] == "delete":
            cache.pop(operation[1], None)
        else:
            cache.flush()
            os.write(1, b"%d\n" % n)
        if n % 97 == 0:
            cache.evict(100_000)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
