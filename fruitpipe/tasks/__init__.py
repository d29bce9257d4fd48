"""What runs in a Spark task, or anywhere else. Imports no Spark."""
