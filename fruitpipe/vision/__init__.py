"""From the bytes of a file to the pixels that a backbone sees."""
