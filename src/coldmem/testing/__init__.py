"""For tests, ours and yours: fault plans, data makers, native stress loops, planted faults.

Nothing in production imports it.
"""
