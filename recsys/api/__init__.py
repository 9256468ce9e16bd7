"""The REST face. Carries no torch."""
