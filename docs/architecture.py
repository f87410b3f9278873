"""Draws docs/pictures/architecture.svg, the rooms of lenet/ and who uses whom, from the imports.

python docs/architecture.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "pictures" / "architecture.svg"

# From the ground up: a room may use those before it. tests/test_architecture.py checks this.
ROOMS = {
    "cli": "options, answers, tables, bars",
    "native": "C++ kernels",
    "model": "layers, networks, losses",
    "optim": "SDLM, schedules",
    "data": "data sets, batches, distortions",
    "config": "check, build, name mistakes",
    "training": "fit, evaluate, checkpoints",
    "tracking": "one run in MLflow, resume",
    "tutorial": "the tutorial's ten functions",
    "report": "verdict, report page",
    "sweeps": "grid, search, launchers",
    "commands": "python -m lenet COMMAND",
    "run.py": "the story of one run",
}
LEFT, RIGHT = ("cli", "data", "tutorial", "commands"), ("config", "run.py")  # on their floors
WIDTH, FLOOR, BOX_WIDTH, BOX_HEIGHT = 960, 104, 208, 52
STYLE = """
  text { font-family: system-ui, sans-serif; text-anchor: middle; fill: #1f2328; }
  .name { font-size: 16px; font-weight: 600; }
  .words { font-size: 12px; }
  rect { fill: #f6f8fa; stroke: #59636e; }
  path { fill: none; stroke: #59636e; stroke-width: 1.3; marker-end: url(#head); }
  .upwards { stroke: #d1242f; stroke-width: 2.5; }
  #head path { fill: #59636e; stroke: none; marker-end: none; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    rect { fill: #212830; stroke: #9198a1; }
    path { stroke: #9198a1; }
    .upwards { stroke: #ff7b72; }
    #head path { fill: #9198a1; }
  }
"""


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a file imports, in functions and under TYPE_CHECKING too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "lenet" and len(part) > 1} & ROOMS.keys()


def uses() -> dict[str, set[str]]:
    """Each room with the rooms that it imports."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for path in (ROOT / "lenet").rglob("*.py"):
        room = path.relative_to(ROOT / "lenet").with_suffix("").parts[0]
        if room in found:
            found[room] |= imported_rooms(path) - {room}
    found["run.py"] = imported_rooms(ROOT / "run.py")
    return found


def floors(arrows: dict[str, set[str]]) -> dict[str, int]:
    """Each room's floor: one above the highest room that it uses."""
    order, found = list(ROOMS), {}
    for room in order:
        below = [found[other] for other in arrows[room] if other in found]
        found[room] = 1 + max(below, default=-1)
    return found


def shown(arrows: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that no path over other rooms already implies."""
    order = list(ROOMS)
    below = {
        room: {other for other in arrows[room] if order.index(other) < order.index(room)}
        for room in order
    }
    reach: dict[str, set[str]] = {}
    for room in order:
        reach[room] = below[room].union(*(reach[other] for other in below[room]))
    return [
        (room, other)
        for room in order
        for other in sorted(arrows[room], key=order.index)
        if not any(other in reach[between] for between in below[room])
    ]


def drawing() -> str:
    """The picture as SVG, light and dark."""
    order, arrows = list(ROOMS), uses()
    floor_of = floors(arrows)
    top = max(floor_of.values())
    places = {}
    for floor in range(top + 1):
        rooms = [room for room in order if floor_of[room] == floor]
        rooms.sort(key=lambda room: (room in RIGHT) - (room in LEFT))
        for number, room in enumerate(rooms):
            x = WIDTH * (number + 1) / (len(rooms) + 1)
            places[room] = (round(x), (top - floor) * FLOOR + 20)
    lines = []
    for room, other in shown(arrows):
        (x, y), (to_x, to_y) = places[room], places[other]
        kind = "uses" if order.index(other) < order.index(room) else "upwards"
        bend = BOX_HEIGHT
        if to_y - y == FLOOR:
            bend = (FLOOR - BOX_HEIGHT) // 2
            start = f"M{x} {y + BOX_HEIGHT} C{x} {y + BOX_HEIGHT + bend}"
        else:  # leave at the side, so that the line goes around the rooms between
            side = -1 if to_x < x else 1
            edge = x + side * BOX_WIDTH // 2
            start = f"M{edge} {y + BOX_HEIGHT // 2} C{edge + side * 70} {y + BOX_HEIGHT // 2}"
        curve = f"{start} {to_x} {to_y - bend} {to_x} {to_y}"
        lines.append(f'<path class="{kind}" d="{curve}"><title>{room} uses {other}</title></path>')
    for room, (x, y) in places.items():
        lines += [
            f'<rect x="{x - BOX_WIDTH // 2}" y="{y}" width="{BOX_WIDTH}" '
            f'height="{BOX_HEIGHT}" rx="6"/>',
            f'<text class="name" x="{x}" y="{y + 22}">{room}</text>',
            f'<text class="words" x="{x}" y="{y + 41}">{ROOMS[room]}</text>',
        ]
    height = (top + 1) * FLOOR
    body = "\n".join(lines)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">
<title>The rooms of the package, each above the rooms that it uses</title>
<style>{STYLE}</style>
<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7"
orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>
{body}
</svg>
"""


if __name__ == "__main__":
    PICTURE.write_text(drawing(), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))
