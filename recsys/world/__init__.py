"""The synthetic world: items, users whose tastes drift, sessions and flash crowds."""
