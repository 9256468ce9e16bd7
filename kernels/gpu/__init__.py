"""Triton kernels of the MoE layer. Import its modules lazily: they need triton, which CPU machines do not carry.

route -> plan -> experts (or up, down) -> combine: four or five launches without a host synchronisation, so that one
CUDA graph holds the whole layer. `tiny` does all of it in one launch for small batches, `prices` finds the prices
that balance a batch. `layer` puts them together.
"""
