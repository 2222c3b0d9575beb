"""Benchmarks of the cache: plywood beside Debian's buildah and docker, with a registry as the cache, in one run.

Run as root: `python3 tests/bench/cache.py --builder target/release/plywood [--runs N] [--project P] [--only CASE]`.
Needs docker-registry, and mmdebstrap or `--bases DIR`; of buildah and docker.io what is not installed is left out, with
a note. All in one: apt-get install buildah crun docker.io docker-registry mmdebstrap. The network is wanted for
Debian's packages in the base image alone; no image comes from a registry but the one that the script starts.

What is measured: the wall time of "build, export the cache, push", from the start of the first process to the end of
the last, and what the registry saw meanwhile. Each builder caches in the way that it offers:

  plywood   build --cache-from/--cache-to type=registry --push, the cache being a repository of its own
  buildah   build --layers --cache-from/--cache-to, the cache being a repository of its own; then push
  docker    20.10 with BuildKit: build --cache-from the image's own name, BUILDKIT_INLINE_CACHE=1; then push. An inline
            cache knows the steps of the last stage alone. The daemon is running before, and is no part of the time.

The cases, in this order; each change is one against the build before, and is like no other of the run:

  cold            nothing in the store, a repository that is new, the base in another repository of this registry
  warm            the same again, the store as it was left
  last            the file of the last COPY has changed, the store as it was left
  first           the file of the first COPY has changed, the store as it was left
  registry        nothing has changed, but the store is empty: the registry alone knows the steps
  registry-last   as `last`, the store empty
  registry-first  as `first`, the store empty
  cold-same       as `cold`, the base in the repository that is pushed to: none of it needs to be sent or mounted;
                  `flask` alone, unless --only asks for it

"Empty store" is a new --root for plywood, a new --root, --runroot and blob cache for buildah, and for docker a dockerd
with a new data root: `docker builder prune` leaves what the daemon knows of which registry has which layer.
What plywood compiled of its plugins is kept (it is no part of --root), as are the programs of the others.

The projects are generated, the same on every machine:

  flask   two stages after examples/flask. There is no package index here, so `pip install` is a COPY of a tree such as
          a wheel unpacks to (1200 files, 12 MB) and a RUN that installs and, where the base has Python, compiles it;
          `apt-get install python3` is a RUN that writes a tree of files. The base is Debian with python3-minimal.
  large   three stages, twelve steps (COPY and RUN), a context of 60,000 small files (--files)

How to read the table: `median` is that of --runs builds, for `large` of a third as many, at least one. `ratio` is the
median by plywood's, so above 1.00 is slower than plywood. `up` and `down` are bytes of blobs' bodies, layers and
configurations, that went to and came from the registry, counted by a proxy in front of it; `requests` are all requests,
those for manifests too. The proxy costs every builder the same for a byte. `image` is "same" if the configuration that
the tag points to is the one of the build before: a cache that gives back what was built, rather than builds it alike.

Everything runs in mount and process namespaces of its own, as in run.py.
"""

import argparse
import gzip
import hashlib
import http.client
import itertools
import json
import os
import platform
import random
import re
import select
import shutil
import signal
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

sys.dont_write_bytecode = True

from run import INSIDE, SEARCH, Docker, Failed, Registry, isolated, run  # noqa: E402

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEXES = {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
MANIFESTS = f"{MANIFEST}, application/vnd.docker.distribution.manifest.v2+json, {', '.join(sorted(INDEXES))}"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
PIECE = 1 << 18

# Name, what it is, whether the store is emptied before, what changes before.
CASES = [
    ("cold", "cold", True, None),
    ("warm", "no change, warm store", False, None),
    ("last", "last COPY changed, warm store", False, "last"),
    ("first", "first COPY changed, warm store", False, "first"),
    ("registry", "no change, empty store", True, None),
    ("registry-last", "last COPY changed, empty store", True, "last"),
    ("registry-first", "first COPY changed, empty store", True, "first"),
    ("cold-same", "cold, base in the same repository", True, None),
]

FLASK = """\
ARG BASE
FROM ${BASE} AS builder
WORKDIR /src
COPY requirements.txt .
COPY wheels wheels
RUN mkdir -p /venv/lib && cp -r wheels/. /venv/lib/ && sort requirements.txt > /venv/installed \\
    && if command -v python3 > /dev/null; then python3 -m compileall -q /venv/lib; fi

FROM ${BASE}
RUN mkdir -p /opt/python && for n in 0 1 2 3 4 5 6 7 8 9; do cp -r /etc /opt/python/$n; done
COPY --from=builder /venv /venv
WORKDIR /app
COPY app.py .
ENV PATH=/venv/bin:/usr/local/bin:/usr/bin:/bin FLASK_APP=app PORT=5000
EXPOSE 5000
CMD ["python3", "app.py"]
"""

LARGE = """\
ARG BASE
FROM ${BASE} AS vendor
WORKDIR /src
COPY lock/ lock/
RUN sort lock/* > /src/wanted
COPY vendor/ vendor/
RUN find vendor -type f | sort > /src/vendor.list

FROM vendor AS build
COPY src/ src/
RUN mkdir -p /out/bin && for d in src/*; do cat $d/* > /out/bin/${d##*/}; done
RUN mkdir -p /out/lib && cp -r vendor/*0 /out/lib/
RUN cat /out/bin/* | sha256sum > /out/checked

FROM ${BASE}
COPY --from=vendor /src/wanted /src/vendor.list /app/
COPY --from=build /out/ /app/
COPY conf/ /app/conf/
RUN cat /app/conf/* > /app/settings
ENV MODE=bench
CMD ["cat", "/app/settings"]
"""


class Proxy(socketserver.ThreadingTCPServer):
    """Stands before a registry and counts what goes through."""

    allow_reuse_address = daemon_threads = True
    request_queue_size = 128

    def __init__(self, backend):
        super().__init__(("127.0.0.1", 0), Through)
        self.backend = backend
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.lock = threading.Lock()
        self.counts = {}
        self.reset()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def reset(self):
        with self.lock:
            self.counts = {"up": 0, "down": 0, "requests": 0}

    def count(self, what, number):
        with self.lock:
            self.counts[what] += number

    def counted(self):
        with self.lock:
            return dict(self.counts)

    def handle_error(self, *_):
        pass  # a client that leaves early, which they may


class Through(BaseHTTPRequestHandler):
    """One connection of a client and its own to the registry, both kept; bodies go through as they come."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # Of the connection, not of the message; bodies are framed anew, and "100 Continue" was said already.
    HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect"}

    def setup(self):
        super().setup()
        self.upstream = None

    def finish(self):
        if self.upstream:
            self.upstream.close()
        super().finish()

    def log_message(self, *_):
        pass

    def connect(self):
        """A connection that the registry has not closed meanwhile."""
        if self.upstream and self.upstream.sock:
            if not select.select([self.upstream.sock], [], [], 0)[0]:
                return self.upstream
            self.upstream.close()
        self.upstream = http.client.HTTPConnection(self.server.backend)
        return self.upstream

    def pieces(self):
        """The request's body, unframed."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield from self.exactly(size)
                self.rfile.readline()
            while self.rfile.readline() not in (b"\r\n", b"\n", b""):
                pass
        else:
            yield from self.exactly(int(self.headers.get("Content-Length", 0)))

    def exactly(self, size):
        while size:
            piece = self.rfile.read1(min(size, PIECE))
            if not piece:
                raise ConnectionError("the client left in the middle of a body")
            size -= len(piece)
            yield piece

    def forward(self):
        uploads = "/blobs/uploads/" in self.path
        self.server.count("requests", 1)
        upstream = self.connect()
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            # Host stays the client's: the registry makes Location of it.
            if name.lower() not in self.HOP:
                upstream.putheader(name, value)
        chunked = "Transfer-Encoding" in self.headers
        if chunked:
            upstream.putheader("Transfer-Encoding", "chunked")
        refused = False
        upstream.endheaders()
        try:
            for piece in self.pieces():
                upstream.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                if uploads:
                    self.server.count("up", len(piece))
            if chunked:
                upstream.send(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            refused = True  # it has answered and will not read on
        self.answer(upstream.getresponse(), "/blobs/sha" in self.path)
        if refused:
            self.close_connection = True

    def answer(self, response, is_blob):
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() == "location":
                value = value.replace(f"//{self.server.backend}/", f"//{self.server.address}/")
            if name.lower() not in self.HOP:
                self.send_header(name, value)
        bare = self.command == "HEAD" or response.status in (204, 304)
        chunked = not bare and response.getheader("Content-Length") is None
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while not bare and (piece := response.read1(PIECE)):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if is_blob:
                self.server.count("down", len(piece))
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        response.read()
        if response.will_close:
            self.upstream.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = forward


class Base:
    """The base image: blobs by digest, and a manifest."""

    def __init__(self, manifest, blobs, note):
        self.manifest, self.blobs, self.note = manifest, blobs, note

    @classmethod
    def of_layout(cls, folder):
        folder = folder / "debian" if (folder / "debian" / "index.json").is_file() else folder
        if not (folder / "index.json").is_file():
            raise Failed(f"--bases: neither {folder} nor its folder `debian` is an OCI layout")

        def blob(digest):
            return (folder / "blobs" / digest.replace(":", "/")).read_bytes()

        text = (folder / "index.json").read_bytes()
        while "manifests" in (document := json.loads(text)):
            fitting = [
                entry for entry in document["manifests"]
                if entry.get("platform", {}).get("architecture", ARCHITECTURE) == ARCHITECTURE
            ]
            if not fitting:
                raise Failed(f"--bases: {folder} has no image for {ARCHITECTURE}")
            text = blob(fitting[0]["digest"])
        blobs = [blob(part["digest"]) for part in [document["config"], *document["layers"]]]
        return cls(text, blobs, f"the base image is that of {folder.name}")

    @classmethod
    def of_debian(cls, home):
        if not shutil.which("mmdebstrap", path=SEARCH):
            raise Failed("mmdebstrap is missing: apt-get install mmdebstrap, or give a base image with --bases")
        found = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)
        suite = found[1] if found else "stable"
        # The machine's own mirror, where it is one that needs no certificates: the new root has none.
        files = [Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")]
        texts = {file: file.read_text() for file in files if file.is_file()}
        sources = [file for file, text in texts.items() if "http:" in text and re.search(rf"\b{suite}\b", text)]
        print("making the base image", file=sys.stderr, flush=True)
        how = ["--quiet", "--variant=essential", "--include=python3-minimal,busybox", "--skip=output/dev"]
        how += [f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("doc", "i18n", "locale", "man")]
        env = {"PATH": SEARCH, "HOME": str(home), "TMPDIR": str(home), "SOURCE_DATE_EPOCH": "1700000000"}
        run(["mmdebstrap", *how, suite, str(home / "rootfs.tar"), *map(str, sources[:1])], env)
        rootfs = (home / "rootfs.tar").read_bytes()
        (home / "rootfs.tar").unlink()
        layer = gzip.compress(rootfs, 6, mtime=0)
        config = json.dumps({
            "architecture": ARCHITECTURE,
            "os": "linux",
            "created": "2023-11-14T22:13:20Z",
            "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(rootfs)]},
            "history": [{"created": "2023-11-14T22:13:20Z", "created_by": "mmdebstrap"}],
        }).encode()
        parts = []
        for kind, blob in [("config.v1+json", config), ("layer.v1.tar+gzip", layer)]:
            media_type = f"application/vnd.oci.image.{kind}"
            parts.append({"mediaType": media_type, "digest": digest(blob), "size": len(blob)})
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": parts[1:]}
        return cls(json.dumps(manifest).encode(), [config, layer], f"the base image is Debian {suite}")

    def push(self, address, repository, tag):
        """Pushes it past the proxy."""
        for blob in self.blobs:
            location = request(address, "POST", f"/v2/{repository}/blobs/uploads/")[0]["Location"]
            path = location.split(address, 1)[-1]
            path += f"{'&' if '?' in path else '?'}digest={digest(blob)}"
            request(address, "PUT", path, blob, {"Content-Type": "application/octet-stream"})
        kind = json.loads(self.manifest).get("mediaType", MANIFEST)
        request(address, "PUT", f"/v2/{repository}/manifests/{tag}", self.manifest, {"Content-Type": kind})


def digest(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def request(address, method, path, body=None, headers=None):
    """A request to the registry itself; the headers and the body of its answer."""
    connection = http.client.HTTPConnection(address)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        text = response.read()
        if response.status >= 300:
            raise Failed(f"{method} {path}: {response.status} {text.decode(errors='replace')}")
        return response.headers, text
    finally:
        connection.close()


def configuration(address, repository, tag):
    """The digest of the configuration that a tag points to."""
    while True:
        text = request(address, "GET", f"/v2/{repository}/manifests/{tag}", headers={"Accept": MANIFESTS})[1]
        document = json.loads(text)
        if "config" in document:
            return document["config"]["digest"]
        tag = document["manifests"][0]["digest"]


class Plywood:
    name = "plywood"

    def __init__(self, program, home):
        self.program, self.home = program, home
        self.store = home / "store"
        home.mkdir()
        self.env = {
            "PATH": SEARCH, "HOME": str(home), "TMPDIR": str(home), "XDG_CACHE_HOME": str(home / "cache"),
        }
        self.note = run([program, "--version"], self.env)[0]
        self.has_cache = "--cache-to" in run([program, "build", "--help"], self.env)[0]
        if not self.has_cache:
            self.note += "; WITHOUT a cache in the registry: this binary knows no --cache-to"
        # Compiles the plugins.
        run([program, "plugin", "list"], self.env)
        first = home / "first"
        first.mkdir()
        (first / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
        self.call("build", "-q", "-o", f"type=tar,dest={home / 'first.tar'}", str(first))

    def call(self, *arguments):
        return run([self.program, "--root", str(self.store), *arguments], self.env)

    def empty(self):
        remove(self.store)

    def build_and_push(self, context, base, repository):
        host = repository.split("/")[0]
        cache = [f"--cache-{way}=type=registry,ref={repository}/cache" for way in ("from", "to") if self.has_cache]
        how = ["-q", "--insecure-registry", host, "--build-arg", f"BASE={base}", *cache]
        return self.call("build", *how, "-t", f"{repository}/app:1", "--push", str(context))[1]

    def close(self):
        pass


class Buildah:
    name = "buildah"

    def __init__(self, home, base):
        self.home = home
        self.env = {"PATH": SEARCH, "HOME": str(home), "TMPDIR": str(home)}
        # Where each blob was seen is remembered here, whatever --root is.
        self.shared = Path("/var/lib/containers")
        self.is_ours = not self.shared.exists()
        self.shared.mkdir(parents=True, exist_ok=True)
        probe = home / "probe"
        probe.mkdir(parents=True)
        (probe / "Dockerfile").write_text(f"FROM {base}\nRUN true\n")
        reasons = []
        # The first that can run a command here; one with an OCI runtime isolates as plywood does, chroot does not.
        runtimes = [found for name in ("crun", "runc") if (found := shutil.which(name, path=SEARCH))]
        isolations = [*(["--runtime", runtime] for runtime in runtimes), ["--isolation", "chroot"]]
        for self.driver, isolation in itertools.product(["overlay", "vfs"], isolations):
            self.how = [*isolation, "--network", "host", "--tls-verify=false"]
            self.empty()
            try:
                self.call("build", "-q", *self.how, str(probe))
            except Failed as reason:
                reasons.append(str(reason))
                continue
            version = run(["buildah", "--version"], self.env)[0]
            self.note = f"{version}; --storage-driver {self.driver} {' '.join(self.how)}"
            return
        self.close()
        raise Failed("buildah can run no command here:\n" + "\n".join(reasons))

    def call(self, *arguments):
        places = ["--root", str(self.home / "root"), "--runroot", str(self.home / "runroot")]
        return run(["buildah", *places, "--storage-driver", self.driver, *arguments], self.env)

    def empty(self):
        for folder in ["root", "runroot", "shared"]:
            remove(self.home / folder)
        (self.home / "shared").mkdir()
        subprocess.run(["umount", "--lazy", self.shared], check=False, stderr=subprocess.DEVNULL)
        run(["mount", "--bind", str(self.home / "shared"), str(self.shared)], self.env)

    def build_and_push(self, context, base, repository):
        cache = [f"--cache-from={repository}/cache", f"--cache-to={repository}/cache"]
        how = ["--layers", "-q", *self.how, "--build-arg", f"BASE={base}", *cache]
        built = self.call("build", *how, "-t", f"{repository}/app:1", str(context))[1]
        return built + self.call("push", "-q", "--tls-verify=false", f"{repository}/app:1")[1]

    def close(self):
        subprocess.run(["umount", "--lazy", self.shared], check=False, stderr=subprocess.DEVNULL)
        if self.is_ours:
            try:
                self.shared.rmdir()
            except OSError:
                pass  # somebody uses it by now


class DockerWithCache(Docker):
    """The docker of run.py, with a data root that can be thrown away."""

    def __init__(self, home):
        home.mkdir()
        self.home = home
        self.daemon = None
        self.cgroup = home.parent.name
        self.host = f"unix://{home}/socket"
        self.env = {
            "PATH": SEARCH,
            "HOME": str(home),
            "TMPDIR": str(home),
            "DOCKER_CONFIG": str(home / "config"),
            "DOCKER_HOST": self.host,
            "DOCKER_BUILDKIT": "1",
        }
        version = self.version("dockerd")
        self.client = self.find_client(version)
        # dockerd would use a containerd of the machine's; here, where nobody else sees it, there is none.
        if Path("/run/containerd").is_dir():
            run(["mount", "-t", "tmpfs", "none", "/run/containerd"], self.env)
        for self.driver in ["overlay2", "vfs"]:
            if self.start(self.host, self.driver):
                break
        else:
            raise Failed(f"dockerd does not start:\n{(home / 'log').read_text()}")
        self.note = f"docker {version}, its daemon running; --storage-driver {self.driver}, build --network host"

    def empty(self):
        self.close()
        # What the storage driver and the builder mounted, and what the daemon keeps.
        for folder in [self.driver, "exec"]:
            remove(self.home / folder)
        if not self.start(self.host, self.driver):
            raise Failed(f"dockerd does not start again:\n{(self.home / 'log').read_text()[-2000:]}")

    def build_and_push(self, context, base, repository):
        tag = f"{repository}/app:1"
        how = ["-q", "--network", "host", "--cache-from", tag]
        for argument in [f"BASE={base}", "BUILDKIT_INLINE_CACHE=1"]:
            how += ["--build-arg", argument]
        built = self.call("build", *how, "-t", tag, str(context))[1]
        return built + self.call("push", "-q", tag)[1]


def unmount(folder):
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{folder}/") or mount == str(folder)]):
        subprocess.run(["umount", "--lazy", mount], check=False, stderr=subprocess.DEVNULL)


def remove(folder):
    unmount(folder)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        raise Failed(f"{folder} cannot be removed")


class Project:
    """A context on the disk, and the files of its first and its last COPY."""

    def __init__(self, name, place, dockerfile, first, last, runs):
        self.name, self.place, self.runs = name, place, runs
        self.files = {"first": place / first, "last": place / last}
        self.changes = 0
        self.random = random.Random(name)
        place.mkdir()
        (place / "Dockerfile").write_text(dockerfile)
        for which in self.files:
            self.files[which].parent.mkdir(exist_ok=True)
            self.change(which)

    def change(self, which):
        self.changes += 1
        self.files[which].write_text(f"# change {self.changes}\n")

    def tree(self, name, folders, files, largest):
        """Folders of files, that compress as program text does; few are large."""
        for number in range(folders):
            folder = self.place / name / f"part{number:03}"
            folder.mkdir(parents=True)
            for member in range(files):
                size = int(200 + largest * self.random.random() ** 3)
                (folder / f"module{member:03}.py").write_text(f"DATA = '{self.random.randbytes(size // 2).hex()}'\n")


def flask(home, arguments):
    project = Project("flask", home / "flask", FLASK, "requirements.txt", "app.py", arguments.runs)
    project.tree("wheels", 12, 100, 40000)
    return project


def large(home, arguments):
    runs = max(1, arguments.runs // 3)
    project = Project("large", home / "large", LARGE, "lock/versions", "conf/settings", runs)
    folders = max(1, arguments.files // 500)
    # Without the Dockerfile and the two that change.
    per_folder = max(1, arguments.files // (2 * folders))
    project.tree("vendor", folders, per_folder, 3000)
    project.tree("src", folders, per_folder, 3000)
    return project


PROJECTS = {"flask": flask, "large": large}


class Bench:
    def __init__(self, arguments, registry, proxy, base):
        self.only = arguments.only
        self.registry, self.proxy, self.base = registry, proxy, base
        # By project, case and builder: what was measured, one entry for each run.
        self.figures = {}
        self.failures = []
        self.repositories = 0

    def sequence(self, project, tool):
        """All cases once, of one builder."""
        name = before = None
        for case, what, is_empty, changed in CASES:
            # All but the one that begins anew need the build of the first.
            is_needed = case == "cold" and self.only != {"cold-same"}
            if self.only and case not in self.only and not is_needed:
                continue
            if not self.only and case == "cold-same" and project.name == "large":
                continue  # it would tell no more than with `flask`, in a minute or two
            base = f"{self.proxy.address}/library/base:1"
            if case.startswith("cold"):
                self.repositories += 1
                name = f"{project.name}/{tool.name}{self.repositories}"
                if case == "cold-same":
                    self.base.push(self.registry.address, f"{name}/app", "base")
                    base = f"{self.proxy.address}/{name}/app:base"
            if is_empty:
                tool.empty()
            if changed:
                project.change(changed)
            # What was written before is no part of what follows.
            os.sync()
            self.proxy.reset()
            print(f"  {project.name}: {what}: {tool.name}: ", end="", file=sys.stderr, flush=True)
            try:
                seconds = tool.build_and_push(project.place, base, f"{self.proxy.address}/{name}")
                counted = self.proxy.counted()
                after = configuration(self.registry.address, f"{name}/app", "1")
                if changed and after == before:
                    raise Failed("the image is that of before the change")
            except Failed as reason:
                lines = str(reason).splitlines()
                self.failures.append(f"{project.name}: {what}: {tool.name}: " + "\n".join([*lines[:1], *lines[-8:]]))
                print("FAILED", file=sys.stderr, flush=True)
                return
            is_same, before = after == before, after
            print(f"{seconds:.2f} s", file=sys.stderr, flush=True)
            if not self.only or case in self.only:
                entry = {"seconds": seconds, **counted, "same": is_same}
                self.figures.setdefault((project.name, case), {}).setdefault(tool.name, []).append(entry)

    def rows(self):
        """What the table and the JSON file have, in the order of the cases."""
        for project in PROJECTS:
            for case, what, _, _ in CASES:
                tools = self.figures.get((project, case), {})
                one = None
                if "plywood" in tools:
                    one = statistics.median(entry["seconds"] for entry in tools["plywood"])
                for tool, entries in tools.items():
                    middle = {
                        key: statistics.median(entry[key] for entry in entries)
                        for key in ("seconds", "up", "down", "requests")
                    }
                    yield {
                        "project": project,
                        "case": case,
                        "what": what,
                        "builder": tool,
                        "runs": [entry["seconds"] for entry in entries],
                        "median": middle["seconds"],
                        "ratio": middle["seconds"] / one if one else None,
                        "up": middle["up"],
                        "down": middle["down"],
                        "requests": middle["requests"],
                        "same": all(entry["same"] for entry in entries),
                    }


def megabytes(number):
    return f"{number / 1e6:.2f} MB" if number >= 5000 else f"{number:.0f} B"


def show(rows):
    head = ("project", "case", "builder", "median", "ratio", "up", "down", "requests", "image")
    lines = [head]
    for row in rows:
        if (row["project"], row["what"]) != lines[-1][:2]:
            lines.append(("",) * len(head))
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else "-"
        image = "same" if row["same"] else "new"
        figures = [f"{row['median']:.2f} s", ratio, megabytes(row["up"]), megabytes(row["down"])]
        lines.append((row["project"], row["what"], row["builder"], *figures, f"{row['requests']:.0f}", image))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        left = [cell.ljust(width) for cell, width in zip(line[:3], widths)]
        right = [cell.rjust(width) for cell, width in zip(line[3:], widths[3:])]
        print("  ".join(left + right).rstrip())


def measure(arguments, home):
    home.chmod(0o755)
    program = home / "plywood"
    # A copy: a build could replace the original between two figures.
    shutil.copy(arguments.builder, program)
    base = Base.of_layout(arguments.bases) if arguments.bases else Base.of_debian(home)
    notes = [base.note]
    tools = []
    proxy = None
    registry = Registry(home / "registry")
    try:
        proxy = Proxy(registry.address)
        base.push(registry.address, "library/base", "1")
        tools.append(Plywood(program, home / "plywood.home"))
        for name, program_of, start in [
            ("buildah", "buildah", lambda: Buildah(home / "buildah", f"{proxy.address}/library/base:1")),
            ("docker", "dockerd", lambda: DockerWithCache(home / "docker")),
        ]:
            if shutil.which(program_of, path=SEARCH):
                tools.append(start())
            else:
                notes.append(f"{name} is left out: {program_of} is not installed")
        notes += [f"{tool.name}: {tool.note}" for tool in tools]

        bench = Bench(arguments, registry, proxy, base)
        for name, make in PROJECTS.items():
            if arguments.project and name not in arguments.project:
                continue
            print(f"making the project {name}", file=sys.stderr, flush=True)
            project = make(home, arguments)
            # In turn, so that a machine that is slower for a while is slower for all.
            for _ in range(project.runs):
                for tool in tools:
                    bench.sequence(project, tool)
            shutil.rmtree(project.place)
    finally:
        for tool in tools:
            tool.close()
        if proxy:
            proxy.shutdown()
            proxy.server_close()
        registry.close()

    machine = f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f}"
    print(f"\n{machine}. ratio: of medians, plywood being 1.00; up, down: bytes of blobs at the registry.\n")
    rows = list(bench.rows())
    show(rows)
    print()
    for note in notes:
        print(note)
    for failure in bench.failures:
        print(f"FAILED: {failure}")
    if arguments.json:
        document = {"machine": machine, "notes": notes, "failures": bench.failures, "rows": rows}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if bench.failures else 0


def parse():
    parser = argparse.ArgumentParser(
        description="Measures caches in a registry: plywood beside buildah and docker. Run as root.",
        epilog="Cases: " + ", ".join(case for case, *_ in CASES) + ". A case is measured after a cold build at least.",
    )
    parser.add_argument("--builder", type=Path, default=Path("target/release/plywood"), metavar="FILE",
                        help="the plywood binary [default: %(default)s]")
    parser.add_argument("--runs", type=int, default=3, metavar="N",
                        help="runs of each case, a third as many for `large` [default: %(default)s]")
    parser.add_argument("--only", action="append", choices=[case for case, *_ in CASES], metavar="CASE",
                        help="this case alone; may be given more than once")
    parser.add_argument("--project", action="append", choices=list(PROJECTS), help="this project alone")
    parser.add_argument("--files", type=int, default=60000, metavar="N",
                        help="files of the project `large` [default: %(default)s]")
    parser.add_argument("--bases", type=Path, metavar="DIR",
                        help="an OCI layout, or a folder with one named `debian`, instead of making a base image")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    arguments = parser.parse_args()
    if arguments.runs < 1 or arguments.files < 1:
        parser.error("--runs, --files: at least 1")
    arguments.only = set(arguments.only or ())
    return arguments


def main():
    arguments = parse()
    if not shutil.which("docker-registry", path=SEARCH):
        raise Failed("docker-registry is missing: apt-get install docker-registry")
    if not arguments.builder.is_file():
        raise Failed(f"{arguments.builder} is not there: cargo build --release")
    if os.geteuid() != 0:
        raise Failed("dockerd and buildah are measured as root: run this as root")
    if INSIDE not in os.environ:
        sys.exit(isolated())
    # Process 1 of a namespace gets no signal that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    home = Path(tempfile.mkdtemp(prefix="plywood-bench."))
    try:
        code = measure(arguments, home)
    finally:
        unmount(home)
        shutil.rmtree(home, ignore_errors=True)
    sys.exit(code)


if __name__ == "__main__":
    try:
        main()
    except Failed as reason:
        sys.exit(f"bench: {reason}")
    except KeyboardInterrupt:
        sys.exit(130)
