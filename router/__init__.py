"""Choosing experts: routing policies, load and prices. Imports `kernels` and torch only."""
