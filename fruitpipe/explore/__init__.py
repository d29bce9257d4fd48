"""The page that shows all images of a run: one HTML file that works without a network."""
