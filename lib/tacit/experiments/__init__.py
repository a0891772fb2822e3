"""What every finding shares: the cache, tuned arms and their responses, students, and evaluations."""
