"""Measurements of the running service. They take minutes, assert nothing, and write down where they ran."""
