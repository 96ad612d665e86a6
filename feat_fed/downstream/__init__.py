"""What generated clips are good for: a classifier is trained with them and tested on real ones.

:mod:`.experiment` has the two experiments: FixMatch (arXiv 2001.07685) with few labelled clips and
many without, and training on generated clips alone. :mod:`.dataset` reads clips with labels.
"""
