"""The compiled libraries: where their sources are, how they are built, found and loaded."""
