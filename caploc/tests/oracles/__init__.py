"""The slow, obvious versions of what caploc does fast: its tests compare with them, its benchmarks time them."""
