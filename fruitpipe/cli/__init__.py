"""The command line: its verbs, how they look, and what only a person at a terminal or a pod needs."""
