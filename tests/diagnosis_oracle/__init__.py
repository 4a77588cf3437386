"""Wrong and right rotations in numpy, for tests of `rope_core.diagnose`.

Nothing here imports the product, so an error of the product cannot hide in both. `rope` computes
what a port computes, `mistakes` changes one thing of it, `presets` reads the config.json of the
presets, `cases` draws random evidence, and `judge` compares a diagnosis with the truth.
"""
