"""The order of training: which example comes next."""
