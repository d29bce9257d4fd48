"""What is written about runs, and what is read of them."""
