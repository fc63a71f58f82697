"""Dicts whose items are packed one by one, so that who wants one item need not read all of them.

Owns: nothing.
Guarantees: an `Items` is equal to the dict that was packed, whatever is done with it.
Assumes: only tasks that take one item are given an `Items`. Code in C may look past the methods of
    a dict's subclass, and would see an empty one.
Locks: none here; reading a piece takes those of the store.

A shuffle made of tasks cuts each partition into a dict of pieces, and takes them out one at a time, by
`operator.getitem`, where each is needed. Between one and the next the dict has long left RAM.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeGuard

from dask._task_spec import Task

if TYPE_CHECKING:
    from distributed.worker_state_machine import TaskState

_APART_BYTES_MIN = 1 << 20
_PIECE_BYTES_MIN = 64 << 10  # on average
# Dicts that hold nothing but their items. The second knows its size as well, and counts it anew.
_KINDS = {("builtins", "dict"), ("dask.dataframe.backends", "ShuffleGroupResult")}


def come_apart(value: object, size_bytes: int) -> TypeGuard[dict[Any, Any]]:
    """Whether the items of a value are packed one by one."""
    kind = type(value)
    return (
        isinstance(value, dict) and (kind.__module__, kind.__name__) in _KINDS and len(value) > 1
        and size_bytes >= max(_APART_BYTES_MIN, len(value) * _PIECE_BYTES_MIN)
    )


def takes_one(task: TaskState) -> bool:
    """Whether a task does nothing but take one item out of what it depends on."""
    spec = task.run_spec
    return isinstance(spec, Task) and spec.func is operator.getitem


class Items(dict[Any, Any]):
    """A dict whose items are read when they are asked for; all of them, for anything but `items[name]`.

    Parameters
    ----------
    numbers : iterable of (name, number)
        Which piece is where.
    read : callable
        Gives the piece with a number.
    kind : type
        Of the dict that was packed.
    """

    def __init__(self, numbers: Iterable[tuple[Any, int]], read: Callable[[int], Any],
                 kind: type[dict[Any, Any]] = dict) -> None:
        super().__init__()
        self._kind = kind
        self._numbers: dict[Any, int] | None = dict(numbers)
        self._read = read

    def __getitem__(self, name: Any) -> Any:
        numbers = self._numbers
        return super().__getitem__(name) if numbers is None else self._read(numbers[name])

    def _fill(self) -> None:
        if (numbers := self._numbers) is not None:
            super().update({name: self._read(number) for name, number in numbers.items()})
            self._numbers = None

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Elsewhere it is a dict as any other."""
        return self._kind, (dict(self),)


def _filled(name: str) -> Callable[..., Any]:
    def method(self: Items, *args: Any, **kwargs: Any) -> Any:
        self._fill()
        return getattr(super(Items, self), name)(*args, **kwargs)

    method.__name__ = name
    return method


for _name in (
    "__contains__", "__delitem__", "__eq__", "__ior__", "__iter__", "__len__", "__ne__", "__or__",
    "__repr__", "__reversed__", "__ror__", "__setitem__", "clear", "copy", "get", "items", "keys",
    "pop", "popitem", "setdefault", "update", "values",
):
    setattr(Items, _name, _filled(_name))
