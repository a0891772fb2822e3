"""Instructions in, responses out: batches and GPU slots, key-value caches, sampling, and the three rules."""
