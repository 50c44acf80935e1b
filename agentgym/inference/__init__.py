"""Batched generation behind the `InferenceBackend` contract."""
