"""Searches on Ray Tune: which curriculum, which sparsity."""
