"""The thin layer of Spark: start it, run numbered tasks on it, say why one failed."""
