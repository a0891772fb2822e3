"""Causal language models: loading them, pairing them, formatting their prompts, and running several as one."""
