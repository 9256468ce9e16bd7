"""What the service remembers of users and items, in Redis."""
