"""What is inside a file: readers from objects to batches, writers from batches to files."""
