"""Managed memory: real arrays whose cold units are compressed, and come back when touched."""
