"""The process that owns a device: admission, micro-batches, retrieval, ranking, selection."""
