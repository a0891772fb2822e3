"""What one finding alone needs."""
