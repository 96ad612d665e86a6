"""Virtual hospitals: patients of a data set dealt out, and a site's configuration for each.

:mod:`.patients` finds out whose clips there are, :mod:`.deal` shares patients out,
:mod:`.hospitals` lays their clips out in folders, :mod:`.sites` makes the configurations that the
sites' own code reads. Nothing here knows Flower.
"""

from feat_fed.simulate.hospitals import hospitals_of
from feat_fed.simulate.sites import fix_pseudonyms, virtual_sites

__all__ = ["fix_pseudonyms", "hospitals_of", "virtual_sites"]
