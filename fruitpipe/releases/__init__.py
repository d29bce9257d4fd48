"""Releases of the chart on a cluster: submit one, see how it goes and why it does not, read its logs, end it."""
