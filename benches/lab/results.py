"""RESULTS.md and growth.svg out of what was measured. What was not says so."""
import math, os, platform, re, statistics

SCENARIOS = [  # form, scenario, title, goal in seconds
    ("tar", "cold", "cold, tar", {"large": 7}),
    ("kernel+initrd", "cold", "cold, kernel+initrd", {"large": 8}),
    ("tar", "unchanged", "nothing changed, tar", {"large": 0.010, "small": 0.010}),
    ("kernel+initrd", "unchanged", "nothing changed, kernel+initrd", {"large": 0.010, "small": 0.010}),
    ("tar", "swap", "one service swapped, tar", {"large": 0.25}),
    ("kernel+initrd", "file", "one file changed, kernel+initrd", {"large": 0.1}),
]
BUILDERS = ["kiln", "LinuxKit", "BuildKit"]
MEMORY_GOAL, INITRD_GOAL = 200, 400
CHANGE_GOALS = {"tar": 0.25, "kernel+initrd": 0.1}


def machine(directory):
    def read(path, pattern):
        with open(path) as file:
            found = re.search(pattern, file.read(), re.M)
        return found.group(1).strip() if found else "unknown"
    memory = int(read("/proc/meminfo", r"^MemTotal:\s+(\d+)")) / 1e6
    best = ("", "unknown")
    with open("/proc/self/mounts") as file:
        for line in file:
            place, kind = line.split()[1:3]
            inside = directory == place or directory.startswith(place.rstrip("/") + "/")
            if inside and len(place) >= len(best[0]):
                best = (place, kind)
    return {"processor": read("/proc/cpuinfo", r"^model name\s*:(.*)") if platform.machine() == "x86_64"
            else platform.machine(), "cores": len(os.sched_getaffinity(0)), "memory": f"{memory:.0f} GB",
            "kernel": platform.release(), "file_system": best[1], "system": read("/etc/os-release", r'^PRETTY_NAME="?([^"\n]*)')}


def time(seconds):
    if seconds < 0.0995:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 9.95 else f"{seconds:.1f} s"


def spread(seconds):
    """Median, and what lies around it: the extremes."""
    text = time(statistics.median(seconds))
    if len(seconds) == 1:
        return f"{text} (once)"
    return f"{text} ({time(min(seconds))} – {time(max(seconds))}, n {len(seconds)})"


def table(rows):
    head, *rest = rows
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rest])


def verdict(value, goal):
    return "yes" if value <= goal else f"no, {value / goal:.2g} ×"


def ran_on(part):
    it = part["machine"]
    return (f"{part['date']} · {it['processor']}, {it['cores']} cores, {it['memory']} · {it['system']}, "
            f"Linux {it['kernel']}, {it['file_system']} · load average at the start {part['load']:.1f}")


def systems(part):
    found = part["measured"]
    versions = ", ".join(f"{name}: {found['versions'].get(name, 'not measured')}" for name in BUILDERS)
    text = [f"{ran_on(part)}\n\n{versions}"]
    for system in ("large", "small"):
        if system not in found["images"]:
            text.append(f"### The {system} system\n\nnot measured")
            continue
        samples = {key.removeprefix(system + "/"): cells for key, cells in found["samples"].items()
                   if key.startswith(system + "/")}
        rows = [["", "goal", "kiln", "met", "LinuxKit", "BuildKit"]]
        for form, scenario, title, goals in SCENARIOS:
            cells = samples.get(f"{form}/{scenario}", {})
            goal, kiln = goals.get(system), cells.get("kiln", {}).get("seconds")
            rows.append([title, f"≤ {time(goal)}" if goal else "", *[cell(cells, form, name) for name in BUILDERS]])
            rows[-1].insert(3, verdict(statistics.median(kiln), goal) if goal and kiln else "")
        peaks = {name: max((cells[name]["megabytes"] for cells in samples.values() if name in cells), default=0)
                 for name in BUILDERS}
        peak = [f"{peaks[name]:.0f} MB" if peaks[name] else "not measured" for name in BUILDERS]
        rows.append(["peak memory of all rows", f"≤ {MEMORY_GOAL} MB", peak[0],
                     verdict(peaks["kiln"], MEMORY_GOAL) if peaks["kiln"] else "", *peak[1:]])
        sizes = {name: initrd(found["sizes"].get(f"{system}/kernel+initrd", {}).get(name)) for name in BUILDERS}
        words = [f"{sizes[name] / 1e6:.0f} MB" if sizes[name] else "not measured" for name in BUILDERS[:2]]
        big = system == "large"
        rows.append(["size of the initrd", f"≤ {INITRD_GOAL} MB" if big else "", words[0],
                     verdict(sizes["kiln"] / 1e6, INITRD_GOAL) if big and sizes["kiln"] else "", words[1], "–"])
        tars = {name: sum(found["sizes"].get(f"{system}/tar", {}).get(name, {}).values()) for name in BUILDERS}
        words = [f"{tars[name] / 1e6:.0f} MB" if tars[name] else "not measured" for name in BUILDERS]
        rows.append(["size of the tar", "", words[0], "", *words[1:]])
        text.append(f"### The {system} system\n\n{found['images'][system]} images, "
                    f"{found['compressed'][system] / 1e6:.0f} MB compressed.\n\n{table(rows)}")
    floor = (f"Times are medians of whole processes (least – most, n samples). Memory below {found['floor']:.0f} MB "
             "cannot be seen; BuildKit's is that of client and daemon. Cold: the tool's caches are empty, its daemon "
             "runs, and the registry's files are in the page cache, read just before.")
    return "\n\n".join([*text, floor])


def cell(cells, form, name):
    if name == "BuildKit" and form != "tar":
        return "–"
    found = cells.get(name)
    if found and "failed" in found:
        return "failed"
    return spread(found["seconds"]) if found and found["seconds"] else "not measured"


def initrd(sizes):
    return next((size for name, size in (sizes or {}).items() if "initrd" in name), None)


def growth(part):
    rows = [["system", "services", "one service swapped, tar", "one file changed, kernel+initrd",
             "before it, once: the tar, new images unpacked", "the initrd, all known"]]
    for row in part["measured"]:
        size = f"{row['megabytes']:,} MB"
        if "missing" in row:
            rows.append([size, "", f"not measured: {row['missing']}", "", "", ""])
            continue
        rows.append([size, str(row["services"]), spread(row["tar"]["seconds"]), spread(row["kernel+initrd"]["seconds"]),
                     time(row["tar first"]), time(row["kernel+initrd first"])])
    return (f"{ran_on(part)}\n\nSynthetic systems; the service is always of 5 MB and in the middle, and what it is "
            f"swapped for is an image in the cache that no build has used. Goals: ≤ 0.25 s and ≤ 0.1 s, whatever the "
            f"size.\n\n{table(rows)}\n\n![What a change costs, against the size of the system](growth.svg)")


def svg(rows):
    """Draws medians against size, both axes logarithmic, the extremes as a line through each."""
    rows = [row for row in rows if "missing" not in row]
    width, height, left, right, top, bottom = 760, 420, 70, 20, 40, 50
    sizes = [row["megabytes"] for row in rows]
    every = [value for row in rows for form in CHANGE_GOALS for value in row[form]["seconds"]] + [0.01, 1]
    x0, x1 = math.log10(min(sizes)) - 0.1, math.log10(max(sizes)) + 0.1
    y0, y1 = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))

    def x(size):
        return left + (math.log10(size) - x0) / (x1 - x0) * (width - left - right)

    def y(seconds):
        return height - bottom - (math.log10(seconds) - y0) / (y1 - y0) * (height - top - bottom)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
           f'font-size="13">', f'<rect width="{width}" height="{height}" fill="#fff"/>',
           f'<text x="{left}" y="22" font-size="15">What a change costs, against the size of the system</text>']
    for power in range(y0, y1 + 1):
        at = y(10 ** power)
        label = f"{10 ** power:g} s" if power >= 0 else f"{10 ** (power + 3):g} ms"
        out.append(f'<path d="M{left} {at:.1f}H{width - right}" stroke="#ddd"/>'
                   f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end" fill="#555">{label}</text>')
    for size in sizes:
        label = f"{size / 1000:g} GB" if size >= 1000 else f"{size} MB"
        out.append(f'<text x="{x(size):.1f}" y="{height - bottom + 20}" text-anchor="middle" fill="#555">{label}</text>')
    for (form, goal), color, title in zip(CHANGE_GOALS.items(), ("#0b6bcb", "#b3631a"),
                                          ("one service swapped, tar", "one file changed, kernel+initrd")):
        points = [(x(row["megabytes"]), row[form]["seconds"]) for row in rows]
        out.append(f'<path d="M{left} {y(goal):.1f}H{width - right}" stroke="{color}" stroke-dasharray="5 4" opacity=".6"/>'
                   f'<text x="{width - right}" y="{y(goal) - 5:.1f}" text-anchor="end" fill="{color}">goal {time(goal)}</text>')
        line = "L".join(f"{at:.1f} {y(statistics.median(seconds)):.1f}" for at, seconds in points)
        out.append(f'<path d="M{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        for at, seconds in points:
            out.append(f'<path d="M{at:.1f} {y(min(seconds)):.1f}V{y(max(seconds)):.1f}" stroke="{color}" opacity=".5"/>'
                       f'<circle cx="{at:.1f}" cy="{y(statistics.median(seconds)):.1f}" r="4" fill="{color}"/>')
        offset = left + 10 + 250 * list(CHANGE_GOALS).index(form)
        out.append(f'<circle cx="{offset}" cy="{height - 12}" r="4" fill="{color}"/>'
                   f'<text x="{offset + 10}" y="{height - 8}">{title}</text>')
    return "\n".join([*out, "</svg>", ""])


def plan(part):
    it = part["measured"]
    memory = (f"{it['megabytes']:.0f} MB" if it["megabytes"] > it["floor"] else
              f"less than the {it['floor']:.0f} MB that the measuring process takes")
    return (f"{ran_on(part)}\n\n{it['components']:,} components × {it['layers']} layers over {it['images']} images, all in "
            f"the cache, the tar there; a comment is added to the description, so that it is read and everything is "
            f"planned and looked up again, bundles, sharing and segments too: {spread(it['seconds'])}, {memory}. The "
            f"first build took {time(it['first'])}. The graph alone, for which there is a goal, is among the rooms below.")


def micro(part):
    return f"{ran_on(part)}\n\n```\n{part['measured'].rstrip()}\n```"


def write(found, path):
    head = ("# Results\n\nWhat `benches/compare` measured last, part by part; [README.md](README.md) says how. Not "
            "edited by hand. Compare within a table: another machine, or the same at another hour, has other figures.")
    text = [head]
    for name, title, section in (("systems", "Real systems, beside LinuxKit and BuildKit", systems),
                                 ("growth", "A change, as the system grows", growth),
                                 ("plan", "Planning", plan), ("micro", "The rooms", micro)):
        text.append(f"## {title}\n\n{section(found[name]) if name in found else 'not measured'}")
    with open(path, "w") as file:
        file.write("\n\n".join(text) + "\n")
    if any("missing" not in row for row in found.get("growth", {}).get("measured", [])):
        with open(os.path.join(os.path.dirname(path), "growth.svg"), "w") as file:
            file.write(svg(found["growth"]["measured"]))
