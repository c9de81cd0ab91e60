"""What producer and workers agree on: the settings, the message, and the names of what a run leaves in S3."""
