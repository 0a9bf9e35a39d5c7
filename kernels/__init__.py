"""Arrays in, arrays out: the operations that the models of griffin-lm spend their time in."""
