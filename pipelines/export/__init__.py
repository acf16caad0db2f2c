"""Datasets in formats of others, part by part: `job` runs it, the other modules are one format each."""
