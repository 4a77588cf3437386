"""Steps of a first run that end in every way there is, each in a file of its name."""
