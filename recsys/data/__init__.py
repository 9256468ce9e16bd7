"""Data sets: one schema, importers, splits."""
