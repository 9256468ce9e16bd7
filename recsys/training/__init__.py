"""Fitting the ranker and measuring it."""
