"""CoDIT's synthesis: instructions in, a dataset decoded from the contrast of two models out."""
