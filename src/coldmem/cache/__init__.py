"""A mapping with a byte limit, whose values live compressed."""
