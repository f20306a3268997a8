"""Manifests, audio and code shards, and the grain pipelines that make batches of them."""
