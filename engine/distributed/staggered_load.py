"""A model divided by ranks that take turns, so that a machine never holds it whole several times.

Loading and checking a model takes several times its memory; dividing it leaves a rank with its
part. The first rank of a machine loads it and says how large it is, all agree on a mesh, and
then one after the other divides it. Where it is not divided after all, everyone keeps it whole,
and nobody waits.
"""

import os
from collections.abc import Callable
from typing import TypeVar

from engine.distributed.local_ranks import LOCAL_RANK
from engine.distributed.mesh import Mesh
from engine.replay.ranks import Ranks
from engine.runs.errors import UsageError

Loaded = TypeVar("Loaded")
Divided = TypeVar("Divided")


def in_turn(
    ranks: Ranks,
    load: Callable[[], Loaded],
    meet: Callable[[Loaded | None], Mesh],
    divide: Callable[[Loaded, Mesh], Divided],
) -> Divided:
    """What ``divide`` makes of what ``load`` gives, on every rank.

    Args:
        ranks: all ranks of the job.
        load: gives something large.
        meet: the mesh, the same on all ranks; it is told what was loaded where it was.
        divide: uses it, and keeps only a part if the mesh has several shards.

    Raises:
        UsageError: on every rank, if the first rank of a machine cannot load it.
    """
    place = int(os.environ.get(LOCAL_RANK, ranks.index))
    held = _by_the_first(ranks, load, place)
    mesh = meet(held)
    if mesh.group.count == 1:
        return divide(load() if held is None else held, mesh)
    divided = []
    for turn in range(1 + max(ranks.everyone(place))):
        if turn == place:
            divided.append(divide(load() if held is None else held, mesh))
            held = None
        ranks.wait()
    return divided[0]


def _by_the_first(ranks: Ranks, load: Callable[[], Loaded], place: int) -> Loaded | None:
    held, error = None, None
    if place == 0:
        try:
            held = load()
        except UsageError as raised:
            error = raised
    for message in ranks.everyone(None if error is None else str(error)):
        if message is not None:
            raise error or UsageError(message)
    return held
