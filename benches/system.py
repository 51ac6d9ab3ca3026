#!/usr/bin/env python3
"""Whole-process benches of kiln on a corpus it makes itself.

usage: benches/system.py [--kiln PATH] [--services N] [--megabytes N] [--runs N] [--work DIR]

Makes a base layer and one application layer per service out of this machine's own files (umoci),
and measures: cold, warm (cache full, no output), unchanged, one file changed, one service swapped,
for tar and kernel+initrd; with peak memory, and beside `cp` of the result and `kiln version`.
Prints medians; ratios of one run are what to compare."""
import argparse, os, resource, shutil, statistics, subprocess, sys, tempfile, time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--kiln", default=os.path.join(os.path.dirname(__file__), "../target/release/kiln"))
parser.add_argument("--services", type=int, default=6)
parser.add_argument("--megabytes", type=int, default=100, help="of each service's own layer, and of the base")
parser.add_argument("--runs", type=int, default=5)
parser.add_argument("--work", default=None)
options = parser.parse_args()
kiln = os.path.abspath(options.kiln)
work = options.work or tempfile.mkdtemp(prefix="kiln-bench-")
os.makedirs(work, exist_ok=True)
os.chdir(work)


def run(*command):
    """Runs a command; returns seconds and peak resident megabytes."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"{command}: {error.decode()}")
    return seconds, usage.ru_maxrss / 1024


def layers():
    """Deals this machine's files out to a base and to the services."""
    wanted = options.megabytes << 20
    heaps = [[] for _ in range(options.services + 2)]
    filled = [0] * len(heaps)
    at = 0
    for root in ("/usr/lib", "/usr/share", "/usr/bin", "/usr/local", "/usr/include"):
        for directory, subdirectories, names in os.walk(root):
            subdirectories.sort()
            for name in sorted(names):
                path = os.path.join(directory, name)
                if os.path.islink(path) or not os.path.isfile(path) or not os.access(path, os.R_OK):
                    continue
                heaps[at].append(path)
                filled[at] += os.path.getsize(path)
                if filled[at] >= wanted:
                    at += 1
                    if at == len(heaps):
                        return heaps
    return [heap for heap in heaps if heap]


def image(name, lists):
    layout = f"oci/{name}"
    if os.path.isdir(layout):
        return
    os.makedirs("oci", exist_ok=True)
    run("umoci", "init", "--layout", layout + ".new")
    run("umoci", "new", "--image", layout + ".new:latest")
    for files in lists:
        root = tempfile.mkdtemp(dir=work)
        for path in files:
            to = root + path
            os.makedirs(os.path.dirname(to), exist_ok=True)
            os.link(path, to) if os.stat(path).st_dev == os.stat(root).st_dev else shutil.copy2(path, to)
        run("umoci", "insert", "--image", layout + ".new:latest", root, "/")
        shutil.rmtree(root)
    os.rename(layout + ".new", layout)


print(f"corpus in {work}", file=sys.stderr)
heaps = layers()
base, spare, apps = heaps[0], heaps[-1], heaps[1:-1]
for number, files in enumerate(apps):
    image(f"app{number}", [base, files])
image("other", [base, spare])
os.makedirs("kernel", exist_ok=True)
open("kernel/kernel", "w").write("no kernel, but a file of that name")


def system(swapped=False, text="one"):
    services = [f"app{number}" for number in range(len(apps))]
    if swapped:
        services[len(services) // 2] = "other"
    with open("system.yml", "w") as out:
        out.write("kernel:\n  image: directory:./kernel\n  tar: none\n  cmdline: console=ttyS0\nservices:\n")
        for number, name in enumerate(services):
            out.write(f"  - name: service{number}\n    image: oci:./oci/{name}\n")
        out.write("files:\n  - path: etc/note\n    source: note.txt\n")
    open("note.txt", "w").write(text)


def measure(name, prepare, *flags):
    times, peak = [], 0
    for number in range(options.runs):
        prepare(number)
        seconds, memory = run(kiln, "build", "--cache", "cache", *flags, "system.yml")
        times.append(seconds)
        peak = max(peak, memory)
    median = statistics.median(times)
    print(f"{name:<34}{median * 1000:>10.1f} ms{min(times) * 1000:>10.1f} min{peak:>8.0f} MB")
    return median


def cold(_):
    shutil.rmtree("cache", ignore_errors=True)
    remove()


def remove(_=None):
    for name in os.listdir("."):
        if name.startswith("system") and name != "system.yml":
            os.unlink(name)


version = statistics.median(run(kiln, "version")[0] for _ in range(20))
print(f"{'kiln version':<34}{version * 1000:>10.1f} ms")
for form in ("tar", "kernel+initrd"):
    system()
    measure(f"{form}: cold", cold, "-f", form)
    warm = measure(f"{form}: cache full, no output", remove, "-f", form)
    if form == "tar":
        def copy():
            if os.path.exists("copy"):
                os.unlink("copy")
            return run("cp", "--reflink=never", "system.tar", "copy")[0]
        copied = statistics.median(copy() for _ in range(options.runs))
        size = os.path.getsize("system.tar") / 1e6
        print(f"{'  cp of the result':<34}{copied * 1000:>10.1f} ms  {size:.0f} MB; kiln takes {warm / copied:.2f} times as long")
        os.unlink("copy")
    fresh = measure(f"{form}: unchanged", lambda _: None, "-f", form)
    print(f"{'  against kiln version':<34}{fresh / version:>10.2f} times")
    measure(f"{form}: one file changed", lambda number: system(text=f"other {number}"), "-f", form)
    measure(f"{form}: one service swapped", lambda number: system(swapped=number % 2 == 0), "-f", form)
if not options.work:
    shutil.rmtree(work)
