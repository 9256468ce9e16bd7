"""The event stream: what is in it, who applies it, and what happens to what cannot be applied."""
