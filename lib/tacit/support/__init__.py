"""What every other room stands on: errors for people, files and paths, stable hashes, and where a result comes from."""
