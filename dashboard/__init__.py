"""The live board. Speaks HTTP to the service and imports none of it."""
