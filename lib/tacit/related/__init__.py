"""What the notebook of one related system alone needs."""
