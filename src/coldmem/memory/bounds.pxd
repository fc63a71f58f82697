# Where an array's bytes lie.

# (lowest address, the one after the highest); UsageError when the object does not say.
cdef object array_bounds(object array)
