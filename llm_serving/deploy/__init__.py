"""The server on many machines. Importing this costs nothing."""
