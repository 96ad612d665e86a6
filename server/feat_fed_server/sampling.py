"""Which sites a round asks."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable


def ranked(sites: Iterable[str], *, seed: int, round_number: int) -> list[str]:
    """Return sites in the order in which a round draws them.

    A site's place comes from a hash of the seed, the round and its name (rendezvous hashing,
    Thaler and Ravishankar 1998), so that a site that comes or goes changes nobody else's, and
    whoever draws again draws the same.
    """
    return sorted(sites, key=lambda site: (_lot(f"{seed}/{round_number}/{site}"), site))


def draw(
    sites: Iterable[str],
    *,
    per_round: int | None,
    seed: int,
    round_number: int,
    done: Collection[str] = (),
    tried: Collection[str] = (),
    still_needed: int = 0,
) -> list[str]:
    """Return whom to ask now.

    Parameters
    ----------
    sites
        That could be asked now; they need not be in any order.
    per_round
        How many sites a round asks; None: all.
    done
        Sites of the round that have given an update, which are part of its number.
    tried
        Sites of the round that were asked and gave none. Where there are any, others take their
        places as far as good replies are missing, and they themselves only after these.
    still_needed
        Good replies that are missing.
    """
    order = ranked({*sites} | {*done}, seed=seed, round_number=round_number)
    if per_round is None:
        return sorted(site for site in order if site not in done)
    if not tried:
        drawn = order[: max(per_round, still_needed + len(done))]
        return sorted(site for site in drawn if site not in done)
    left = [site for site in order if site not in done]
    left.sort(key=lambda site: site in tried)  # stable: by lot within both
    return sorted(left[:still_needed])


def _lot(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
