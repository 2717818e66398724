"""KV blocks in files: they survive the process that computed them, and others may read them."""
