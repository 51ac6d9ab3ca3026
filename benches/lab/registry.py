"""A registry on this machine: Debian's docker-registry, and the little of its protocol that is
needed to fill it (OCI distribution-spec 1.1, "Push" and "Pull")."""
import hashlib, http.client, json, os, shutil, subprocess, time, urllib.parse

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def sha256(path):
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return "sha256:" + digest.hexdigest()


class Registry:
    def __init__(self, address):
        self.address = address
        self.process = None

    @classmethod
    def serve(cls, directory, port):
        """Starts one over `directory`; `stop` ends it."""
        if not shutil.which("docker-registry"):
            raise SystemExit("docker-registry is missing: apt-get install docker-registry")
        registry = cls(f"127.0.0.1:{port}")
        if registry.answers():
            raise SystemExit(f"something answers on {registry.address} already: choose another --port, "
                             f"or use it with --registry {registry.address}")
        os.makedirs(directory, exist_ok=True)
        config = os.path.join(directory, "registry.yml")
        with open(config, "w") as file:
            json.dump({"version": 0.1, "log": {"level": "error", "accesslog": {"disabled": True}},
                       "storage": {"filesystem": {"rootdirectory": os.path.abspath(directory)},
                                   "delete": {"enabled": True}},
                       "http": {"addr": registry.address}}, file)
        with open(os.path.join(directory, "registry.log"), "w") as log:
            registry.process = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log,
                                                stdin=subprocess.DEVNULL)
        for _ in range(100):
            if registry.answers():
                return registry
            if registry.process.poll() is not None:
                break
            time.sleep(0.1)
        registry.stop()
        raise SystemExit(f"docker-registry does not answer: see {directory}/registry.log")

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def answers(self):
        try:
            return self.ask("GET", "/v2/")[0] == 200
        except OSError:
            return False

    def ask(self, method, path, body=None, headers=()):
        """Returns status, headers and body."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def skim(self, path):
        """Reads something and forgets it; returns how long it was."""
        connection, total = http.client.HTTPConnection(self.address, timeout=60), 0
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            while chunk := answer.read(256 << 10):
                total += len(chunk)
            return total
        finally:
            connection.close()

    def digest(self, name, tag="latest"):
        """Returns the digest that a tag means, or None."""
        status, headers, _ = self.ask("HEAD", f"/v2/{name}/manifests/{tag}", headers={"Accept": MANIFEST}.items())
        return headers.get("Docker-Content-Digest") if status == 200 else None

    def put_blob(self, name, path):
        """Sends a file, unless it is there; returns its descriptor without the type."""
        digest, size = sha256(path), os.path.getsize(path)
        if self.ask("HEAD", f"/v2/{name}/blobs/{digest}")[0] != 200:
            status, headers, body = self.ask("POST", f"/v2/{name}/blobs/uploads/")
            if status != 202:
                raise SystemExit(f"the registry refuses {name}: {status} {body[:200]!r}")
            place = urllib.parse.urlsplit(headers["Location"])
            query = place.query + ("&" if place.query else "") + "digest=" + digest
            with open(path, "rb") as file:
                fields = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
                status, _, body = self.ask("PUT", f"{place.path}?{query}", file, fields.items())
            if status != 201:
                raise SystemExit(f"the registry refuses a blob of {name}: {status} {body[:200]!r}")
        return {"digest": digest, "size": size}

    def put_image(self, name, config, layers, work):
        """Sends an image of the config (a dict) and gzipped layers (files); returns its digest."""
        path = os.path.join(work, "config.json")
        with open(path, "w") as file:
            json.dump(config, file, sort_keys=True)
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST,
                    "config": {"mediaType": CONFIG, **self.put_blob(name, path)},
                    "layers": [{"mediaType": LAYER, **self.put_blob(name, layer)} for layer in layers]}
        body = json.dumps(manifest, sort_keys=True).encode()
        fields = {"Content-Type": MANIFEST}
        status, headers, answer = self.ask("PUT", f"/v2/{name}/manifests/latest", body, fields.items())
        if status != 201:
            raise SystemExit(f"the registry refuses {name}: {status} {answer[:200]!r}")
        return headers["Docker-Content-Digest"]

    def read(self, names):
        """Reads all blobs of the images, so that they are in the page cache; returns compressed bytes."""
        total, seen = 0, set()
        for name in names:
            status, _, body = self.ask("GET", f"/v2/{name}/manifests/latest", headers={"Accept": MANIFEST}.items())
            if status != 200:
                raise SystemExit(f"{self.address}/{name} is not there: make it with benches/corpus")
            manifest = json.loads(body)
            for blob in [manifest["config"], *manifest["layers"]]:
                if blob["digest"] not in seen:
                    seen.add(blob["digest"])
                    total += self.skim(f"/v2/{name}/blobs/{blob['digest']}")
        return total
