"""Actions on text and models: chunking, embedding, completion."""
