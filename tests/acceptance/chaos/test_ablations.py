"""With one safeguard taken out the checker goes red, for the reason that the scene provokes; `make chaos` plays all."""

import asyncio
from pathlib import Path

import pytest

from dev.chaos.cluster import Servers
from dev.chaos.run import Options
from dev.chaos.scenes import SCENES, Scene, is_found, play

QUICK = ("inbox_off", "no_outbox", "no_locks", "stock_parser")


@pytest.mark.parametrize("scene", [scene for scene in SCENES if scene.ablation in QUICK], ids=lambda s: s.ablation)
def test_the_checker_finds_out(servers: Servers, directory: Path, scene: Scene) -> None:
    """A checker that cannot fail proves nothing."""
    result = asyncio.run(play(servers, scene, scene.ablation, Options(1, 0.0, 0.0, directory), lambda _: None))
    assert is_found(scene, result), result.line()
