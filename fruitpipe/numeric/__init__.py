"""The numeric core: moments, PCA, and what labels and precisions say of features. NumPy, no Spark."""
