"""A real-time recommendation service: events, state, model, engine, API."""
