"""Measuring evaluation judges: which prompt and scale of a local model agrees with people."""
