"""Checks of a server that claims OpenAI's API: over the wire, one file a group."""
