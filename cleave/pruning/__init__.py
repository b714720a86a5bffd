"""Structured pruning: gates on units of a decoder that become a smaller plain checkpoint."""
