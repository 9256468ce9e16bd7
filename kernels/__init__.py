"""The numeric operations of a Mixture-of-Experts layer. Imports torch only; triton lazily."""
