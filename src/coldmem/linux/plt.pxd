# Functions of the C library that other modules call, replaced where the modules call them.
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

cdef struct PltHook:
    const char *name
    void *replacement
    void *original              # NULL: there is none, and nothing is replaced

ctypedef PltHook *PltHookP

# What a table of hooks was put into so far; zeros at first.
cdef struct PltSeen:
    uint64_t modules            # of the loader's list, which grows at its end
    unsigned long long gone     # modules that were unloaded until then: with one more, all are looked at

ctypedef PltSeen *PltSeenP

# What is called instead of the function of this name, whose original is found here.
cdef void plt_hook(PltHook *hook, const char *name, void *replacement) noexcept nogil
# Point every module that was loaded since the last call, but the C library, the loader and our own,
# to the replacements: slots changed. Not by two threads at once.
cdef uint32_t plt_patch(PltHook *hooks, uint32_t n, PltSeen *seen) noexcept nogil
# How many modules were loaded so far: cheap.
cdef uint64_t plt_modules() noexcept nogil

cdef extern from "<link.h>" nogil:
    ctypedef struct Elf64_Phdr:
        uint32_t p_type
        uint64_t p_vaddr
        uint64_t p_memsz

    ctypedef union DynUnion:
        uint64_t d_val
        uint64_t d_ptr

    ctypedef struct Elf64_Dyn:
        int64_t d_tag
        DynUnion d_un

    ctypedef struct Elf64_Rela:
        uint64_t r_offset
        uint64_t r_info

    ctypedef struct Elf64_Sym:
        uint32_t st_name

    struct dl_phdr_info:
        uint64_t dlpi_addr
        const char *dlpi_name
        const Elf64_Phdr *dlpi_phdr
        uint16_t dlpi_phnum
        unsigned long long dlpi_adds
        unsigned long long dlpi_subs

    int dl_iterate_phdr(int (*callback)(dl_phdr_info *, size_t, void *) noexcept nogil,
                        void *data) noexcept

    enum:
        PT_DYNAMIC
        PT_GNU_RELRO
        DT_NULL
        DT_SYMTAB
        DT_STRTAB
        DT_JMPREL
        DT_PLTRELSZ
        DT_RELA
        DT_RELASZ

cdef extern from "<dlfcn.h>" nogil:
    void *RTLD_DEFAULT
    void *dlsym(void *handle, const char *name) noexcept

    ctypedef struct Dl_info:
        const char *dli_fname

    int dladdr(const void *address, Dl_info *info) noexcept

ctypedef dl_phdr_info *InfoP
ctypedef const Elf64_Dyn *DynP
ctypedef const Elf64_Rela *RelaP
ctypedef const Elf64_Sym *SymP
ctypedef const char *TextP
ctypedef const Elf64_Phdr *PhdrP

cdef struct PltWork:
    PltHook *hooks
    uint32_t n
    uint32_t changed
    uint64_t skip
    uint64_t at
    PltSeen *seen

ctypedef PltWork *PltWorkP
