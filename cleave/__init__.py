"""Cleave: turn one expensive reasoning model into a cheap decomposer, solver and verifier.

The library part. It never imports Ray; importing this package imports neither torch nor transformers.
"""

__version__ = "0.1.0"
