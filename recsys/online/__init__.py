"""Learning from the stream while serving: small guarded steps, published as versions of the model."""
