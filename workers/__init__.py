"""From a Chunk of keys to one Parquet part in S3."""
