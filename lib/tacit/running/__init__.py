"""Executing notebooks and what surrounds it: parameters, metrics, figures, checks, the site."""
