"""Requests to the tracking server that fail: one of a command's, in one of the ways of a proxy."""

import random
import re
import traceback
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tests.crash.disk import Disk
from tests.crash.lab import Lab, Run
from tests.crash.scenarios import SCENARIOS, TRAINING, problems
from tests.support.servers import Proxy

# Not handled; handled without an answer; neither; handled after the client has tried again.
WAYS = ("error", "cut", "hang", "late")


def _begin(lab: Lab, proxy: Proxy, start: Disk, only: dict[int, str]) -> None:
    proxy.begin({})
    start.write(lab.folder)
    proxy.only = only


def faults(requests: Sequence[str], part: float, seed: int) -> list[str]:
    """Each request fails in each way: `3:cut`. Of each kind of request it is this part, at least
    one.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for n, request in enumerate(requests, start=1):
        kind = re.sub("[0-9a-f]{32}|/artifacts/.*", "ID", urlsplit(request).path)
        groups[kind] += [f"{n}:{way}" for way in WAYS]
    return [
        fault
        for kind, group in groups.items()
        for fault in random.Random(f"{seed} {kind}").sample(group, max(1, int(part * len(group))))
    ]


def try_all(
    lab: Lab, empty_store: Path, name: str, chosen: Sequence[str], part: float, seed: int
) -> int:
    """How many of the faults leave something else than a command that nobody disturbed, after what
    a user types then. They are `chosen`, or else this part of all.
    """
    lab.begin(empty_store)
    scenario = SCENARIOS[name]
    with lab.served() as (lab, proxy):
        if name == "send":  # a whole training waits
            proxy.switch_to("refuse")
            lab.type(*TRAINING, "tracking.wait=0")
        start = Disk.of(lab.folder)
        _begin(lab, proxy, start, {})
        lab.tell(story := [], *scenario.command)
        expected, requests = lab.runs(), list(proxy.requests)
        assert problems(lab, expected, story) == [], story
        chosen = chosen or faults(requests, part, seed)
        print(f"{name}: {len(requests)} requests, {len(chosen)} faults tried", flush=True)
        return sum(_fails(lab, proxy, start, name, expected, fault) for fault in chosen)


def _fails(lab: Lab, proxy: Proxy, start: Disk, name: str, expected: list[Run], fault: str) -> bool:
    scenario, story = SCENARIOS[name], list[str]()
    n, _, way = fault.partition(":")
    _begin(lab, proxy, start, {int(n): way})
    status, text = lab.tell(story, *scenario.command)
    request = " ".join(proxy.requests[int(n) - 1 : int(n)])
    proxy.begin({})
    try:
        if status or any(lab.waiting.glob("*")):
            scenario.recover(lab, scenario.command, story)
        found = problems(lab, expected, [])
    except Exception:  # of reading what is there
        found = [traceback.format_exc()]
    found += [f"exit status {status}"] if status not in (0, 2) else []
    found += ["a traceback"] if "Traceback" in text else []
    if found:
        replay = f"python -m tests.crash answers {name} {fault}"
        print("", replay, request, *found, *story, sep="\n", flush=True)
    return bool(found)
