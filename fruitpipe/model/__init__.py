"""A saved model, and its application to images without Spark."""
