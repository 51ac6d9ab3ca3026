"""Whole processes, measured. Enters: a command. Leaves: seconds, peak memory, how it ended.

Time is wall clock from before the process is made until it has been waited for. Memory is
`ru_maxrss` of wait4: the largest process among the child and all that it waited for. Linux counts
what this Python had when it made the child, so nothing below `floor_megabytes` can be seen."""
import os, resource, statistics, sys, time


class Failed(Exception):
    """A command did not end well; says which, and the end of what it wrote."""


class Sample:
    def __init__(self, seconds, megabytes):
        self.seconds, self.megabytes = seconds, megabytes


def run(command, log, environment=None):
    """Runs a command in this working directory, its output into the file `log`."""
    environment = dict(os.environ, **(environment or {}))
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    out = (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    actions = [null, out, (os.POSIX_SPAWN_DUP2, 1, 2)]
    command = [str(word) for word in command]
    began = time.perf_counter()
    child = os.posix_spawnp(command[0], command, environment, file_actions=actions)
    try:
        _, status, usage = os.wait4(child, 0)
    except BaseException:
        os.kill(child, 15)
        os.waitpid(child, 0)
        raise
    seconds = time.perf_counter() - began
    if status:
        with open(log, errors="replace") as file:
            tail = file.read()[-2000:]
        raise Failed(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}; {log} ends so:\n{tail}")
    return Sample(seconds, usage.ru_maxrss / 1024)


def floor_megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def settle():
    """Brings what was written to the disk, so that it is nobody else's cost."""
    os.sync()


def median(values):
    return statistics.median(values)


def say(text):
    print(text, file=sys.stderr, flush=True)


def first_line(command):
    """Returns the first line that a command prints, or None when there is no such command."""
    read, write = os.pipe()
    try:
        child = os.posix_spawnp(command[0], command, os.environ,
                                file_actions=[(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_CLOSE, read)])
    except FileNotFoundError:
        os.close(read)
        os.close(write)
        return None
    os.close(write)
    with os.fdopen(read, errors="replace") as out:
        text = out.read()
    os.waitpid(child, 0)
    return text.splitlines()[0].strip() if text.strip() else None
