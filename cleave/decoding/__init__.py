"""Drawing replies from a causal language model: batches, caches, filters, noise, stopping. Imports torch only in its modules."""
