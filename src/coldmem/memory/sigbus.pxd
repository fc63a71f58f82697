# The process's SIGBUS action: ours in the kernel, the program's here.
from posix.signal cimport sigaction_t, siginfo_t

ctypedef void (*InfoHandler)(int, siginfo_t *, void *) noexcept nogil
ctypedef void (*PlainHandler)(int) noexcept nogil
ctypedef const sigaction_t *ActionP

# With deliver.py's table locked. Take SIGBUS, or take it back from whoever has taken it since. 0: it was ours.
cdef int sigbus_take(InfoHandler handler) noexcept nogil
# With the table locked. Give it back, if it is still ours.
cdef void sigbus_give_back() noexcept nogil
# A SIGBUS that is not about our memory. Safe in a signal handler.
cdef void sigbus_pass_on(int signal, siginfo_t *info, void *context) noexcept nogil
# Between taking and giving back, what the program sees and sets as its action. Safe in a signal handler;
# either pointer may be NULL.
cdef bint sigbus_taken() noexcept nogil
cdef void sigbus_program(const sigaction_t *to, sigaction_t *old) noexcept nogil
