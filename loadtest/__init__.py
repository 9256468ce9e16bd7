"""Bursts and bounded load. Speaks HTTP to the service and imports none of it."""
