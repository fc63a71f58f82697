"""Changes a persistent cache, and says what it will do and did, until it is killed."""

import os
import random
import sys


def child_key(number):
    return [number, f"key {number}", ("tuple", number)][number % 3]


def child_value(number, turn):
    line = b'{"number": %d, "turn": %d, "name": "n%d"}' % (number, turn, number * turn)
    return line * (1 + (number * turn) % 40 + (number % 50 == 0) * 1500)


def say(word, pairs):
    os.write(1, (word + " " + " ".join(f"{n}:{t}" for n, t in pairs) + "\n").encode())


def main(folder, seed, turn):
    from coldmem import Cache

    cache = Cache("4MiB", path=folder, lossless=True)
    dice = random.Random(seed)
    while True:
        turn += 1
        numbers = dice.sample(range(600), 60)
        doing = [(n, 0 if i < 8 else turn) for i, n in enumerate(numbers)]
        dice.shuffle(doing)
        say("will", doing)
        for n, t in doing:
            if t:
                cache[child_key(n)] = child_value(n, t)
            else:
                cache.pop(child_key(n), None) if n % 2 else cache.delete_many([child_key(n)])
        if dice.random() < 0.3:
            cache.evict(100_000)
        if dice.random() < 0.5:
            cache.flush()
            say("did", [])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
