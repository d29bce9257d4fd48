"""Where results lie: whole objects on disk or in a bucket, their names, and who may write."""
