"""What alerts of every kind share: what is the same failure, how often it is told, what links to it."""
