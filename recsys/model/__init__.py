"""The ranker. Needs torch, `router` and `kernels`, and nothing of the service."""
