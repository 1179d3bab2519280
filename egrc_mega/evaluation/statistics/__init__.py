"""Statistics of an evaluation: shares, lengths and L-Acc, whose intervals know that samples of a problem are alike."""
