"""What a change costs as a system grows, and what planning costs: systems that are made here.

Every image is an OCI layout of one gzipped layer. An eighth of each file is random, the rest is text
of its own, so that no two files are the same and the layouts need little room. One service, in the
middle, of always the same size, is swapped for one that no build has met; or one line of `files`
changes. The bytes around them grow."""
import concurrent.futures, gzip, hashlib, io, json, os, random, shutil, tarfile

from .builders import Kiln, remove
from .process import floor_megabytes, median, say, settle

# The service that is swapped, and the images around it, in megabytes.
SWAPPED = 5
BALLAST = 50
FILE = 64 << 10
CHANGES = 7
# What a size needs on the disk, in its own terms: layouts, packs, and the larger output.
ROOM = 2.3
CONFIG = "CONFIG_BLK_DEV_INITRD=y\nCONFIG_RD_GZIP=y\nCONFIG_RD_ZSTD=y\n"


def blob(directory, data):
    digest = hashlib.sha256(data).hexdigest()
    with open(os.path.join(directory, "blobs/sha256", digest), "wb") as file:
        file.write(data)
    return {"digest": "sha256:" + digest, "size": len(data)}


def layout(directory, tars):
    """Writes an OCI layout whose layers are these tars."""
    os.makedirs(os.path.join(directory, "blobs/sha256"), exist_ok=True)
    layers = [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
               **blob(directory, gzip.compress(tar, 1, mtime=0))} for tar in tars]
    diff_ids = ["sha256:" + hashlib.sha256(tar).hexdigest() for tar in tars]
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
                         "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": layers,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **blob(directory, config)}}).encode()
    index = {"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", **blob(directory, manifest),
        "annotations": {"org.opencontainers.image.ref.name": "latest"}}]}
    for name, content in (("oci-layout", {"imageLayoutVersion": "1.0.0"}), ("index.json", index)):
        with open(os.path.join(directory, name), "w") as file:
            json.dump(content, file)


def tar_of(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1700000000
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def image(directory, name, megabytes):
    """Makes an image of this size, unless it is there; the name decides what is in it."""
    path = os.path.join(directory, name)
    if not os.path.exists(os.path.join(path, "index.json")):
        chance = random.Random(name)

        def files():
            left = int(megabytes * 1e6)
            while left > 0:
                size = min(left, FILE)
                line = chance.randbytes(256).hex().encode()
                data = (chance.randbytes(size // 8) + line * (size // len(line) + 1))[:size]
                yield f"usr/share/d{left // FILE // 100:03}/f{left:010}", data
                left -= size
        layout(path, [tar_of(files())])
    return f"oci:{path}"


def images(directory, wanted):
    os.makedirs(directory, exist_ok=True)
    with concurrent.futures.ProcessPoolExecutor() as pool:
        done = [pool.submit(image, directory, name, size) for name, size in wanted]
        return [future.result() for future in done]


def description(path, kernel, services, note):
    with open(path, "w") as file:
        file.write(f"kernel:\n  image: directory:{kernel}\n  tar: none\n  cmdline: quiet\nservices:\n")
        for name, reference in services:
            file.write(f"  - name: {name}\n    image: {reference}\n")
        file.write(f"files:\n  - path: etc/note\n    contents: \"{note}\"\n")


def fake_kernel(directory):
    """Makes a kernel of nothing but a configuration (IKCONFIG), which says that it reads zstd."""
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "kernel"), "wb") as file:
        file.write(bytes(64) + b"IKCFG_ST" + gzip.compress(CONFIG.encode(), mtime=0) + b"IKCFG_ED")
    return directory


def growth(work, program, sizes):
    """Measures every size in megabytes, from small to large; returns a row for each."""
    kiln = Kiln(work, program)
    kiln.reset()
    pictures, path = os.path.join(work, "layouts"), os.path.join(work, "grown.yml")
    kernel = fake_kernel(os.path.join(work, "fake-kernel"))
    rows = []
    try:
        others = images(pictures, [(f"other{number}", SWAPPED) for number in range(CHANGES)])
        [first] = images(pictures, [("first", SWAPPED)])
        for other in others:
            kiln.fetch(other)
        before = 0
        for size in sorted(sizes):
            free = shutil.disk_usage(work).free / 1e6
            if free < (size - before) * ROOM + before + 500:
                rows.append({"megabytes": size, "missing": f"{free / 1000:.0f} GB were free"})
                continue
            left, wanted = size - SWAPPED, []
            while left > 0:
                here = min(left, BALLAST)
                wanted.append((f"ballast{len(wanted)}-{here}", here))
                left -= here
            ballast = [(name, ref) for (name, _), ref in zip(wanted, images(pictures, wanted))]
            middle = len(ballast) // 2

            def system(swapped, note):
                # A name of this size's own: no component is known from another size.
                services = [*ballast[:middle], (f"swapped{size}", swapped), *ballast[middle:]]
                description(path, kernel, services, note)
            row = {"megabytes": size, "services": len(ballast) + 1}
            for form, change in (("tar", "swap"), ("kernel+initrd", "file")):
                system(first, "first")
                row[f"{form} first"] = kiln.build(path, form)[0].seconds
                times, memory = [], 0
                for number in range(CHANGES):
                    system(others[number] if change == "swap" else first, f"{size} {number}" if change == "file" else "first")
                    settle()
                    sample, sizes_now = kiln.build(path, form)
                    times.append(sample.seconds)
                    memory = max(memory, sample.megabytes)
                row[form] = {"seconds": times, "megabytes": memory, "bytes": sum(sizes_now.values())}
                say(f"  {size} MB, {form}: {median(times) * 1000:.0f} ms a change")
                remove(kiln.at("out"))
                os.makedirs(kiln.at("out"))
            rows.append(row)
            before = size
    finally:
        kiln.close()
        remove(pictures)
    return rows


def planning(work, program, components, layers, pictures=100, rounds=5):
    """Measures a build that finds everything done, but has to look: a comment was added.

    `components` services over `pictures` images of `layers` layers each, all of them different."""
    kiln = Kiln(work, program)
    kiln.reset()
    path, place = os.path.join(work, "planned.yml"), os.path.join(work, "planned")
    try:
        references = []
        for number in range(pictures):
            tars = [tar_of([(f"srv/{layer}", f"{number} {layer}\n".encode())]) for layer in range(layers)]
            layout(os.path.join(place, str(number)), tars)
            references.append(f"oci:{place}/{number}")
        services = [(f"s{number}", references[number % pictures]) for number in range(components)]
        kernel = fake_kernel(os.path.join(work, "fake-kernel"))
        description(path, kernel, services, "first")
        first = kiln.build(path, "tar")[0].seconds
        times, memory = [], 0
        for number in range(rounds):
            with open(path, "a") as file:
                file.write(f"# {number}\n")
            settle()
            sample, _ = kiln.build(path, "tar")
            times.append(sample.seconds)
            memory = max(memory, sample.megabytes)
        say(f"  {components} components × {layers} layers: {median(times):.2f} s")
        return {"components": components, "layers": layers, "images": pictures, "first": first,
                "seconds": times, "megabytes": memory, "floor": floor_megabytes()}
    finally:
        kiln.close()
        remove(place)
