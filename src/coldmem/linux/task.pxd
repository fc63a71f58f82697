# A thread of this process, by its number.

# The CPU that it runs on or ran on last; -1 where that cannot be found out. Three system calls.
cdef int task_cpu(int thread) noexcept nogil
