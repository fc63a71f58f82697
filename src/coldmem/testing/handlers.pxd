# Which handler threads of a Memory wait for faults; see handlers.py.
