"""Instruction rows: reading the papers' datasets and one's own files, and turning a row into tokens and labels."""
