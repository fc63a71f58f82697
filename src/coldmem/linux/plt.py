"""Calls from one module to another go through a table of addresses in the caller. This changes it.

A module that calls `read` jumps through its own slot for `read`, which the loader filled in. Putting
another address there makes that module, and nobody else, call us instead. It needs no rights, costs the
price of the function that is put there, and is what profilers and debuggers do.

Guarantees: what cannot be understood (another processor, another table format) is left alone. A slot is
written by one store. Pages that the loader had made read-only are writable for as long as it takes.
The C library's calls of itself stay its own, and so do addresses that a program has from `dlsym`.
Owns nothing but the name of our own folder.
Locks: `_walk`, a leaf, while the loader's list is gone through, and from before a fork until after. The
loader has a lock for that list, which it does not free in a forked child: nobody may hold it then.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a64_load_rlx, a64_store_rel
from cython.cimports.coldmem.linux.lock import Mutex, mutex_lock, mutex_unlock
from cython.cimports.coldmem.linux.process import pthread_atfork
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import strcmp, strlen, strncmp, strstr
from cython.cimports.posix.mman import PROT_READ, PROT_WRITE, mprotect

PAGE_MASK = cython.declare(uint64_t, 4095)
# Of x86-64 and of arm64: the two kinds of relocation that hold an address to call.
X86_GLOB_DAT = cython.declare(uint32_t, 6)
X86_JUMP_SLOT = cython.declare(uint32_t, 7)
ARM_GLOB_DAT = cython.declare(uint32_t, 1025)
ARM_JUMP_SLOT = cython.declare(uint32_t, 1026)
_walk = cython.declare(Mutex)
_home = cython.declare(TextP, cython.NULL)  # of our modules: the path of this one, and how much of it
_home_n = cython.declare(cython.size_t, 0)


def plt_hook(hook, name, replacement):
    hook.name = name
    hook.replacement = replacement
    hook.original = dlsym(RTLD_DEFAULT, name)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _find_home() -> cython.void:
    """Where the folder of coldmem is, by the path of this module, which is in linux/."""
    global _home, _home_n
    info: Dl_info
    last: cython.size_t
    level: cython.int = 0
    if dladdr(cython.cast(cython.p_void, _find_home), cython.address(info)) == 0:
        return
    last = strlen(info.dli_fname)
    while last > 0 and level < 2:
        last -= 1
        if info.dli_fname[last] == b"/":
            level += 1
    _home_n = last + 1 if level == 2 else 0
    _home = info.dli_fname


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _is_ours(name: TextP) -> cython.bint:
    """One of coldmem's modules, those apart that stand for somebody else's in tests."""
    return _home_n != 0 and strncmp(name, _home, _home_n) == 0 and (
        strncmp(name + _home_n, b"testing/", 8) != 0
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _spared(name: TextP) -> cython.bint:
    """The C library itself, the loader, what is no file, and our own modules."""
    return (
        strstr(name, b"/libc.so") != cython.NULL or strstr(name, b"/libc-") != cython.NULL
        or strstr(name, b"/ld-linux") != cython.NULL or strstr(name, b"/libpthread") != cython.NULL
        or strstr(name, b"linux-vdso") != cython.NULL or _is_ours(name)
    )


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _patch_table(w: PltWorkP, info: InfoP, table: RelaP, count: uint64_t, symbols: SymP,
                 names: TextP, relro: PhdrP) -> cython.void:
    i: uint64_t
    k: uint32_t
    kind: uint32_t
    name: TextP
    slot: cython.pointer(uint64_t)
    page: uint64_t
    closed: cython.bint
    for i in range(count):
        kind = cython.cast(uint32_t, table[i].r_info)  # its lower half
        if kind not in (X86_GLOB_DAT, X86_JUMP_SLOT, ARM_GLOB_DAT, ARM_JUMP_SLOT):
            continue
        name = names + symbols[table[i].r_info >> 32].st_name
        for k in range(w.n):
            if name[0] != w.hooks[k].name[0] or strcmp(name, w.hooks[k].name) != 0:
                continue
            if w.hooks[k].original == cython.NULL:
                break
            slot = cython.cast(cython.pointer(uint64_t), info.dlpi_addr + table[i].r_offset)
            if a64_load_rlx(slot) == cython.cast(uint64_t, w.hooks[k].replacement):
                break
            page = cython.cast(uint64_t, slot) & ~PAGE_MASK
            closed = relro != cython.NULL and (
                info.dlpi_addr + relro.p_vaddr <= cython.cast(uint64_t, slot)
                < info.dlpi_addr + relro.p_vaddr + relro.p_memsz
            )
            if closed and mprotect(cython.cast(cython.p_void, page), 4096, PROT_READ | PROT_WRITE):
                break
            a64_store_rel(slot, cython.cast(uint64_t, w.hooks[k].replacement))
            if closed:
                mprotect(cython.cast(cython.p_void, page), 4096, PROT_READ)
            w.changed += 1
            break


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _patch_module(info: InfoP, size: cython.size_t, data: cython.p_void) -> cython.int:
    w: PltWorkP = cython.cast(PltWorkP, data)
    i: uint32_t
    d: DynP = cython.NULL
    relro: PhdrP = cython.NULL
    symbols: uint64_t = 0
    names: uint64_t = 0
    jumps: uint64_t = 0
    jumps_bytes: uint64_t = 0
    rela: uint64_t = 0
    rela_bytes: uint64_t = 0
    if w.at == 0:
        w.skip = w.seen.modules if info.dlpi_subs == w.seen.gone else 0
        w.seen.gone = info.dlpi_subs
    w.at += 1
    if w.at <= w.skip:
        return 0
    if info.dlpi_name != cython.NULL and _spared(info.dlpi_name):
        return 0
    for i in range(info.dlpi_phnum):
        if info.dlpi_phdr[i].p_type == PT_DYNAMIC:
            d = cython.cast(DynP, info.dlpi_addr + info.dlpi_phdr[i].p_vaddr)
        elif info.dlpi_phdr[i].p_type == PT_GNU_RELRO:
            relro = cython.address(info.dlpi_phdr[i])
    if d == cython.NULL:
        return 0
    while d.d_tag != DT_NULL:
        if d.d_tag == DT_SYMTAB:
            symbols = d.d_un.d_ptr
        elif d.d_tag == DT_STRTAB:
            names = d.d_un.d_ptr
        elif d.d_tag == DT_JMPREL:
            jumps = d.d_un.d_ptr
        elif d.d_tag == DT_PLTRELSZ:
            jumps_bytes = d.d_un.d_val
        elif d.d_tag == DT_RELA:
            rela = d.d_un.d_ptr
        elif d.d_tag == DT_RELASZ:
            rela_bytes = d.d_un.d_val
        d += 1
    # The loader has made these absolute. Where it has not (another C library), this is not for us.
    if symbols < info.dlpi_addr or names < info.dlpi_addr:
        return 0
    if jumps > info.dlpi_addr:
        _patch_table(w, info, cython.cast(RelaP, jumps), jumps_bytes // cython.sizeof(Elf64_Rela),
                     cython.cast(SymP, symbols), cython.cast(TextP, names), relro)
    if rela > info.dlpi_addr:
        _patch_table(w, info, cython.cast(RelaP, rela), rela_bytes // cython.sizeof(Elf64_Rela),
                     cython.cast(SymP, symbols), cython.cast(TextP, names), relro)
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _count(info: InfoP, size: cython.size_t, data: cython.p_void) -> cython.int:
    cython.cast(cython.pointer(uint64_t), data)[0] = info.dlpi_adds
    return 1  # the first says it


def plt_modules():
    n: uint64_t = 0
    mutex_lock(cython.address(_walk))
    dl_iterate_phdr(_count, cython.address(n))
    mutex_unlock(cython.address(_walk))
    return n


def plt_patch(hooks, n, seen):
    w: PltWork
    if _home == cython.NULL:
        _find_home()
    w.hooks = hooks
    w.n = n
    w.changed = 0
    w.skip = 0
    w.at = 0
    w.seen = seen
    mutex_lock(cython.address(_walk))
    dl_iterate_phdr(_patch_module, cython.address(w))
    mutex_unlock(cython.address(_walk))
    seen.modules = w.at
    return w.changed


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _stop() -> cython.void:
    mutex_lock(cython.address(_walk))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _go_on() -> cython.void:
    mutex_unlock(cython.address(_walk))


pthread_atfork(_stop, _go_on, _go_on)
