"""Pictures: from bytes that are not trusted to the tiles a model looks at. Pillow is loaded on use."""
