"""The seams: what talks to the kernel, one thin module for each of its interfaces; no policy."""
