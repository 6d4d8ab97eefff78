"""A training run before it costs anything: lengths, memory, the first pairs."""
