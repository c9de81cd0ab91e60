"""Networks only: no queue, no bucket, no Parquet. Importing this package loads no deep-learning library."""
