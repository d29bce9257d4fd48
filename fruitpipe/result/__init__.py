"""Runs of a result: their manifests, outcomes and reports."""
