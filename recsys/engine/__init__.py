"""The process that owns a device: admission, micro-batches, retrieval, ranking, selection."""

import os

# Before torch is imported: threads that spin at a barrier starve every other process of the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
