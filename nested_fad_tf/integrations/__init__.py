"""Where functions come from that nobody decorates: files, trainers, strategies."""
