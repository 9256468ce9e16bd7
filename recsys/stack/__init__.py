"""All processes on one machine: find or start Redis, start the rest, watch them, end them cleanly."""
