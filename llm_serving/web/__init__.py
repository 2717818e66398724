"""The playground: a chat page for browsers. Plain files, no build step, nothing from elsewhere."""
