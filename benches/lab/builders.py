"""kiln, LinuxKit and BuildKit, each building the same systems as one whole process.

A builder empties all it keeps (`reset`), gets an image ready that no system has yet (`fetch`), and
builds (`build`): a sample and the bytes of each output. Outputs of those that write all of them
anew are removed at once, for the disk's sake; kiln's stay, since it builds from what is there."""
import os, re, shutil, signal, subprocess, time

from .process import Failed, Sample, run


def remove(path):
    subprocess.run(["rm", "-rf", path], check=True)


class Builder:
    forms = ("tar", "kernel+initrd")
    keeps_outputs = False

    def __init__(self, directory):
        self.directory = os.path.join(directory, self.name.lower())
        remove(self.directory)
        os.makedirs(self.directory)
        self.log = os.path.join(self.directory, "log")

    def at(self, name):
        return os.path.join(self.directory, name)

    def reset(self):
        for name in ("cache", "out"):
            remove(self.at(name))
            os.makedirs(self.at(name))

    def build(self, system, form):
        """Builds a description; returns the sample and the sizes of the outputs by name."""
        sample = self.measure(system, form)
        sizes = {name: os.path.getsize(self.at("out/" + name)) for name in os.listdir(self.at("out"))}
        if not self.keeps_outputs:
            remove(self.at("out"))
            os.makedirs(self.at("out"))
        return sample, sizes

    def close(self):
        remove(self.directory)


class Kiln(Builder):
    name = "kiln"
    keeps_outputs = True

    def __init__(self, directory, program):
        super().__init__(directory)
        self.program = program
        # What is set for this person is not what is measured.
        for name in [name for name in os.environ if name.startswith("KILN_")]:
            del os.environ[name]

    def measure(self, system, form):
        return run([self.program, "build", "--cache", self.at("cache"), "--format", form,
                    "--dir", self.at("out"), system], self.log)

    def fetch(self, image):
        """Has the image's layers in the cache: a system of nothing else is built."""
        path, out = self.at("other.yml"), self.at("other")
        with open(path, "w") as file:
            file.write(f"init:\n  - {image}\n")
        os.makedirs(out, exist_ok=True)
        run([self.program, "build", "--cache", self.at("cache"), "--format", "tar", "--dir", out, path], self.log)
        remove(out)


class LinuxKit(Builder):
    name = "LinuxKit"

    def __init__(self, directory, program):
        super().__init__(directory)
        self.program = program
        os.makedirs(self.at("tmp"))
        self.environment = {"TMPDIR": self.at("tmp")}
        self.is_cold = True

    def reset(self):
        super().reset()
        self.is_cold = True

    def measure(self, system, form):
        pull = ["--pull"] if self.is_cold else []
        sample = run([self.program, "--cache", self.at("cache"), "build", "--docker=false", "--no-sbom", *pull,
                      "--format", form, "--dir", self.at("out"), system], self.log, self.environment)
        self.is_cold = False
        return sample

    def fetch(self, image):
        run([self.program, "--cache", self.at("cache"), "cache", "pull", image], self.log, self.environment)


class BuildKit(Builder):
    """A Dockerfile of COPY --from lines gives the same tree, without LinuxKit's bundles; there is no
    initrd. The daemon runs before the time is taken; its peak memory (VmHWM of the build, which
    clear_refs resets) is in the figure, and what it starts is not."""
    name = "BuildKit"
    forms = ("tar",)

    def __init__(self, directory, daemon, client, registry):
        super().__init__(directory)
        self.daemon, self.client, self.registry = daemon, client, registry
        self.process = None

    def reset(self):
        self.stop()
        remove(self.at("root"))
        super().reset()
        with open(self.at("buildkitd.toml"), "w") as file:
            file.write(f'root = "{self.at("root")}"\n[worker.oci]\nenabled = true\ngc = false\n'
                       f'[worker.containerd]\nenabled = false\n'
                       f'[registry."{self.registry}"]\nhttp = true\n')
        log = open(self.at("daemon.log"), "w")
        self.process = subprocess.Popen(
            [self.daemon, "--config", self.at("buildkitd.toml"), "--addr", self.address()],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"))
        for _ in range(150):
            try:
                run([self.client, "--addr", self.address(), "debug", "workers"], self.log)
                return
            except Failed:
                if self.process.poll() is not None:
                    break
                time.sleep(0.2)
        raise Failed(f"buildkitd does not answer: see {self.at('daemon.log')}")

    def address(self):
        return "unix://" + self.at("socket")

    def measure(self, system, form):
        with open(system) as file:
            context = dockerfile(file.read(), self.at("context"))
        with open(f"/proc/{self.process.pid}/clear_refs", "w") as file:
            file.write("5")
        sample = run([self.client, "--addr", self.address(), "build", "--progress=plain",
                      "--frontend", "dockerfile.v0", "--local", f"context={context}", "--local",
                      f"dockerfile={context}", "--output", f"type=tar,dest={self.at('out/system.tar')}"], self.log)
        with open(f"/proc/{self.process.pid}/status") as file:
            peak = int(re.search(r"^VmHWM:\s*(\d+) kB", file.read(), re.M).group(1)) / 1024
        return Sample(sample.seconds, sample.megabytes + peak)

    def fetch(self, image):
        context = self.at("other")
        os.makedirs(context, exist_ok=True)
        with open(os.path.join(context, "Dockerfile"), "w") as file:
            file.write(f"FROM scratch\nCOPY --from={image} / /other\n")
        run([self.client, "--addr", self.address(), "build", "--progress=plain", "--frontend", "dockerfile.v0",
             "--local", f"context={context}", "--local", f"dockerfile={context}"], self.log)

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def close(self):
        self.stop()
        super().close()


def dockerfile(description, directory):
    """Writes a Dockerfile that copies the images of a description to where LinuxKit puts them."""
    os.makedirs(directory, exist_ok=True)
    lines, section, name, counts = ["FROM scratch"], None, None, {}
    for line in description.splitlines():
        if found := re.match(r"(\w+):", line):
            section = found.group(1)
        elif found := re.match(r"  - name: (\S+)", line):
            name = found.group(1)
            counts[section] = counts.get(section, -1) + 1
        elif found := re.match(r"\s+contents: \"(.*)\"", line):
            with open(os.path.join(directory, "note"), "w") as file:
                file.write(found.group(1))
            lines.append("COPY note /etc/note")
        if found := re.match(r"\s+(?:- |image: )(\S+/kiln/\S+)", line):
            place = {"kernel": "/boot", "init": "/", "services": f"/containers/services/{name}/rootfs"}.get(
                section, f"/containers/{section}/{counts.get(section, 0):03}-{name}/rootfs")
            lines.append(f"COPY --from={found.group(1)} / {place}")
    with open(os.path.join(directory, "Dockerfile"), "w") as file:
        file.write("\n".join(lines) + "\n")
    return directory
