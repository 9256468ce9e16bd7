"""Routing policies, one per module; `get(name)` finds them."""
