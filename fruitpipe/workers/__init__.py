"""Run numbered tasks by processes of this machine."""
