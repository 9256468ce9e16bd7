"""The synthetic world: items, users with drifting tastes, sessions, flash crowds; the default data and demo traffic."""

from recsys.world.config import WorldConfig
from recsys.world.flash_crowd import FlashCrowd
from recsys.world.world import World

__all__ = ["FlashCrowd", "World", "WorldConfig"]
