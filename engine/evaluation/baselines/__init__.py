"""What other methods make of the same documents and queries, to be judged on the same bank."""
