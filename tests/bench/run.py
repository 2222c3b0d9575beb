"""Benchmarks: plywood beside Debian's buildah and docker, in one run on one machine, as a table with ratios.

Run as root: `python3 tests/bench/run.py --builder target/release/plywood [--quick] [--runs N]`.
Needs Debian's buildah, docker.io, docker-registry, busybox-static, uidmap and util-linux; no network but loopback.

Everything runs in mount and process namespaces of its own: what the peers mount is gone with the last process, nothing
that they start outlives the run, and /etc/subuid can have a range for `nobody` that the machine's file does not get.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

INSIDE = "PLYWOOD_BENCH_INSIDE"
SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin"
NOBODY = 65534
BASE = "docker.io/bench/base:1"

# What must be here, and the Debian package that has it. The path of busybox is fixed: it is put into the base image.
NEEDED = [
    ("buildah", "buildah"),
    ("dockerd", "docker.io"),
    ("docker", "docker.io"),
    ("docker-registry", "docker-registry"),
    ("/bin/busybox", "busybox-static"),
    ("newuidmap", "uidmap"),
    ("unshare", "util-linux"),
]

RECORDED = """\
Recorded elsewhere, for orientation, not measured in this run: BuildKit of 2026: no-change rebuild 0.1-0.3 s,
one more RUN 130 ms; docker 20.10: no-change rebuild 0.5 s; buildah: no-change rebuild 3 s."""

BASE_IMAGE = """\
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
ENV PATH=/bin
CMD ["/bin/sh"]
"""

TWO_STAGES = """\
FROM {base} AS build
COPY app.txt /src/app.txt
RUN mkdir -p /out && cp /src/app.txt /out/app.txt
RUN echo built > /out/stamp

FROM {base}
COPY --from=build /out /app
RUN cat /app/app.txt > /app/copy
ENV MODE=bench
CMD ["/bin/cat", "/app/app.txt"]
"""


class Failed(Exception):
    """What the run cannot go on without."""


def run(command, env, *, cwd=None, user=None):
    """Runs a command to its end; its standard output, and the seconds it took."""
    identity = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    start = time.perf_counter()
    streams = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    done = subprocess.run(command, env=env, cwd=cwd, **streams, **identity)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout.strip(), seconds


class Memory(threading.Thread):
    """Samples what all processes of the namespace but `others` and this one occupy.

    A sum of resident sizes: a page that two processes share counts twice, so it is never too low by that.
    """

    def __init__(self, others):
        super().__init__(daemon=True)
        self.others = {os.getpid(), *others}
        self.peak = self.anonymous = 0
        self.finished = threading.Event()

    def sample(self):
        parents, sizes = {}, {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                text = Path(f"/proc/{entry}/status").read_text()
            except OSError:
                continue  # it has ended since
            fields = dict(re.findall(r"^(PPid|VmRSS|RssAnon):\s+(\d+)", text, re.MULTILINE))
            parents[int(entry)] = int(fields["PPid"])
            sizes[int(entry)] = (int(fields.get("VmRSS", 0)), int(fields.get("RssAnon", 0)))
        resident = anonymous = 0
        for process, size in sizes.items():
            ancestors = [process]
            # This script is process 1 of the namespace, and so the parent of whatever lost its own.
            while ancestors[-1] > 1:
                ancestors.append(parents.get(ancestors[-1], 0))
            if process != 1 and not self.others.intersection(ancestors[:-1]):
                resident += size[0]
                anonymous += size[1]
        self.peak = max(self.peak, resident)
        self.anonymous = max(self.anonymous, anonymous)

    def run(self):
        while not self.finished.wait(0.02):
            self.sample()

    def __enter__(self):
        self.sample()
        self.start()
        return self

    def __exit__(self, *_):
        self.finished.set()
        self.join()


class Plywood:
    name = "plywood"
    base = "base"

    def __init__(self, program, layout, home, user=None):
        self.program, self.layout, self.home, self.user = program, layout, home, user
        self.note = run([program, "--version"], {"PATH": SEARCH})[0]

    def call(self, *arguments, cache="cache", store="store"):
        env = {
            "PATH": SEARCH,
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            "XDG_CACHE_HOME": str(self.home / cache),
            "PLYWOOD_ROOT": str(self.home / store),
        }
        return run([self.program, *arguments], env, user=self.user)

    def of(self, context):
        """The context, its Dockerfile, and the base image if there is one yet."""
        named = [f"--build-context=base=oci-layout://{self.layout}"] if self.layout else []
        return [str(context), "-f", str(context / f"Dockerfile.{self.name}"), *named]

    def build(self, context, tag, no_cache=False, **places):
        return self.call("build", "-q", "-t", tag, *self.of(context), *["--no-cache"] * no_cache, **places)

    def build_and_push(self, context, tag):
        self.call("build", "-q", "-t", tag, *self.of(context), "--push", "--insecure-registry", tag.split("/")[0])

    def close(self):
        pass


class Buildah:
    name = "buildah"
    base = BASE

    def __init__(self, archive, home):
        self.home = home
        self.env = {"PATH": SEARCH, "HOME": str(home), "TMPDIR": str(home)}
        probe = home / "probe"
        probe.mkdir(parents=True)
        (probe / "Dockerfile").write_text(f"FROM {BASE}\nRUN true\n")
        reasons = []
        # The first pair that can run a command here; one with an OCI runtime isolates as plywood does, chroot does not.
        for driver, isolation in [("overlay", "oci"), ("overlay", "chroot"), ("vfs", "oci"), ("vfs", "chroot")]:
            places = ["--root", str(home / driver), "--runroot", str(home / f"{driver}.run")]
            self.store = [*places, "--storage-driver", driver]
            self.how = ["--isolation", isolation, "--network", "host"]
            try:
                self.call("pull", "-q", f"docker-archive:{archive}")
                self.call("build", "-q", *self.how, str(probe))
            except Failed as reason:
                reasons.append(str(reason))
                continue
            version = run(["buildah", "--version"], self.env)[0]
            self.note = f"{version}; --storage-driver {driver} {' '.join(self.how)}"
            return
        raise Failed("buildah can run no command here:\n" + "\n".join(reasons))

    def call(self, *arguments):
        return run(["buildah", *self.store, *arguments], self.env)

    def build(self, context, tag, no_cache=False):
        file = str(context / f"Dockerfile.{self.name}")
        cache = ["--no-cache"] * no_cache
        return self.call("build", "--layers", "-q", *self.how, "-f", file, "-t", tag, *cache, str(context))

    def build_and_push(self, context, tag):
        self.build(context, tag)
        self.call("push", "-q", "--tls-verify=false", tag)

    def close(self):
        pass


class Docker:
    name = "docker"
    base = BASE

    def __init__(self, archive, home):
        home.mkdir()
        self.home = home
        self.daemon = None
        # Of its own, so that what stays of it can be told from the machine's and removed.
        self.cgroup = home.parent.name
        host = f"unix://{home}/socket"
        self.env = {
            "PATH": SEARCH,
            "HOME": str(home),
            "TMPDIR": str(home),
            "DOCKER_CONFIG": str(home / "config"),
            "DOCKER_HOST": host,
            "DOCKER_BUILDKIT": "1",
        }
        version = self.version("dockerd")
        self.client = self.find_client(version)
        for driver in ["overlay2", "vfs"]:
            if self.start(host, driver):
                break
        else:
            raise Failed(f"dockerd does not start:\n{(home / 'log').read_text()}")
        self.call("load", "-i", str(archive))
        self.note = f"docker {version}, its daemon running; --storage-driver {driver}, build --network host"

    def version(self, program):
        text = run([program, "--version"], self.env)[0]
        found = re.search(r"version ([0-9.]+)", text)
        return found[1] if found else text

    def find_client(self, version):
        """The daemon's own client: a newer one on the path wants a plugin (buildx) for the same command."""
        clients = [Path(folder) / "docker" for folder in SEARCH.split(":") if folder]
        for client in clients:
            if os.access(client, os.X_OK) and self.version(client) == version:
                return str(client)
        raise Failed(f"no docker client of the daemon's version {version}: apt-get install docker.io")

    def start(self, host, driver):
        places = ["--data-root", self.home / driver, "--exec-root", self.home / "exec", "--pidfile", self.home / "pid"]
        places += ["--cgroup-parent", f"/{self.cgroup}"]
        network = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
        with (self.home / "log").open("a") as log:
            self.daemon = subprocess.Popen(
                ["dockerd", "-H", host, "--storage-driver", driver, *places, *network],
                env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )
        for _ in range(300):
            time.sleep(0.1)
            if self.daemon.poll() is not None:
                return False
            try:
                self.call("version")
                return True
            except Failed:
                pass
        self.close()
        return False

    def call(self, *arguments):
        return run([self.client, *arguments], self.env)

    def build(self, context, tag, no_cache=False):
        file = str(context / f"Dockerfile.{self.name}")
        # There is no bridge, and a network of its own would cost what the others do not do.
        how = ["--network", "host", *["--no-cache"] * no_cache]
        return self.call("build", "-q", *how, "-f", file, "-t", tag, str(context))

    def build_and_push(self, context, tag):
        self.build(context, tag)
        self.call("push", "-q", tag)

    def close(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.terminate()
            try:
                self.daemon.wait(30)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()
        groups = [*Path("/sys/fs/cgroup").glob(f"*/{self.cgroup}"), Path("/sys/fs/cgroup") / self.cgroup]
        for group in groups:
            # Files of a cgroup go with its directory.
            for folder, _, _ in os.walk(group, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    pass  # a process is ending in it yet


class Registry:
    def __init__(self, home):
        home.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        storage = f"{{filesystem: {{rootdirectory: '{home}/data'}}}}"
        log = "log: {accesslog: {disabled: true}, level: error}"
        config = f"version: 0.1\n{log}\nstorage: {storage}\nhttp: {{addr: '{self.address}'}}\n"
        (home / "config.yml").write_text(config)
        with (home / "log").open("w") as log:
            self.process = subprocess.Popen(
                ["docker-registry", "serve", str(home / "config.yml")],
                env={"PATH": SEARCH, "HOME": str(home), "OTEL_TRACES_EXPORTER": "none"},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )
        for _ in range(100):
            time.sleep(0.1)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
        self.close()
        raise Failed(f"docker-registry does not start:\n{(home / 'log').read_text()}")

    def close(self):
        self.process.terminate()
        self.process.wait()


class Table:
    def __init__(self):
        self.lines = []

    def group(self, title, rows, unit):
        """Rows are (who, figures); the first row is 1.00. The ratio is that of medians."""
        self.lines.append(("", "", "", "", ""))
        one = statistics.median(rows[0][1])
        for number, (who, figures) in enumerate(rows):
            middle = statistics.median(figures)
            ratio = f"{middle / one:.2f}" if one > 0 else "-"
            label = title if number == 0 else ""
            self.lines.append((label, who, unit(min(figures)), unit(middle), ratio))
            print(f"  {title}: {who}: {unit(middle)}", file=sys.stderr, flush=True)

    def show(self):
        head = ("what", "who", "min", "median", "ratio")
        lines = [head, *self.lines]
        widths = [max(len(line[column]) for line in lines) for column in range(5)]
        for line in lines:
            left = [cell.ljust(width) for cell, width in zip(line[:2], widths)]
            right = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:])]
            print("  ".join(left + right).rstrip())


def milliseconds(seconds):
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.1 else f"{seconds * 1000:.1f} ms"


def whole_seconds(seconds):
    return f"{seconds:.1f} s"


def mebibytes(kibibytes):
    return f"{kibibytes / 1024:.0f} MiB"


def context(place, template, tools):
    """A context with a Dockerfile for each tool, since the base image has another name for each."""
    place.mkdir(parents=True)
    for tool in tools:
        (place / f"Dockerfile.{tool.name}").write_text(template.format(base=tool.base))
    return place


def base_image(program, home):
    """The image that all begin with, made by plywood: an archive for the peers, a layout for plywood."""
    place = context(home / "base", BASE_IMAGE, [Plywood])
    shutil.copy("/bin/busybox", place / "busybox")
    maker = Plywood(program, None, home / "maker")
    maker.home.mkdir()
    archive, layout = home / "base.tar", home / "layout"
    maker.call("build", "-q", "-t", BASE, *maker.of(place), "-o", f"type=docker,dest={archive}")
    maker.call("copy", f"docker-archive:{archive}", f"oci-layout://{layout}")
    for path in [archive, layout, *layout.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return archive, layout


def no_change(table, tools, place, runs):
    times = {tool.name: [] for tool in tools}
    images = {tool.name: tool.build(place, "two")[0] for tool in tools}
    # In turn, so that a machine that is slower for a while is slower for all.
    for _ in range(runs):
        for tool in tools:
            image, seconds = tool.build(place, "two")
            if image != images[tool.name]:
                raise Failed(f"{tool.name}: a rebuild without a change made another image")
            times[tool.name].append(seconds)
    table.group("no-change rebuild, two stages", list(times.items()), milliseconds)


def marginal_run(table, tools, home, runs):
    places = {
        count: context(home / f"run{count}", "FROM {base}\n" + "RUN true\n" * count, tools) for count in (1, 11)
    }
    whole, more = [], []
    times = {(tool.name, count): [] for tool in tools for count in places}
    for _ in range(runs):
        for tool in tools:
            for count, place in places.items():
                times[tool.name, count].append(tool.build(place, f"run{count}", no_cache=True)[1])
    for tool in tools:
        one, eleven = sorted(times[tool.name, 1]), sorted(times[tool.name, 11])
        whole.append((tool.name, one))
        # Rank by rank: the quickest with the quickest. Pairs as they ran would make noise in the short one a saving.
        more.append((tool.name, [(long - short) / 10 for short, long in zip(one, eleven)]))
    table.group("FROM and one RUN true, no cache", whole, milliseconds)
    table.group("one more RUN true, no cache: (11 - 1) / 10", more, milliseconds)


def start_up(table, root, rootless, place, runs):
    rootless.build(place, "two")
    rows = []
    for who, tool in [("root", root), ("rootless", rootless)]:
        rows.append((f"{who}: fully cached build", [tool.build(place, "two")[1] for _ in range(runs)]))
        rows.append((f"{who}: plan", [tool.call("plan", *tool.of(place))[1] for _ in range(runs)]))
    rows.append(("root: plywood --version", [root.call("--version")[1] for _ in range(runs)]))
    table.group("start-up, warm store", rows, milliseconds)


def first_run(table, tool, place, runs):
    first, second, compiled = [], [], []
    for number in range(runs):
        fresh = {"cache": f"cache{number}", "store": f"store{number}"}
        first.append(tool.build(place, "two", **fresh)[1])
        second.append(tool.build(place, "two", **fresh)[1])
        compiled.append(tool.build(place, "two", cache=f"again{number}")[1])
        for folder in [*fresh.values(), f"again{number}"]:
            shutil.rmtree(tool.home / folder, ignore_errors=True)
    rows = [
        ("second run", second),
        ("first run ever (plugins compiled, all steps run)", first),
        ("warm store, no compiled plugins", compiled),
    ]
    table.group("first run on a machine", rows, milliseconds)


def memory(table, tools, home, size):
    place = context(home / "big", "FROM scratch\nCOPY data /data\n", tools)
    with (place / "data").open("wb") as data:
        for _ in range(size):
            data.write(os.urandom(1 << 20))
    daemons = {tool.daemon.pid for tool in tools if isinstance(tool, Docker)}
    resident, anonymous, seconds = [], [], []
    idle = None
    for tool in tools:
        registry = Registry(home / f"registry-{tool.name}")
        try:
            is_docker = isinstance(tool, Docker)
            others = {registry.process.pid} | (set() if is_docker else daemons)
            if is_docker:
                with Memory(others) as nothing:
                    time.sleep(0.5)
                idle = nothing.peak
            start = time.perf_counter()
            with Memory(others) as sampled:
                tool.build_and_push(place, f"{registry.address}/big:1")
            seconds.append((tool.name, [time.perf_counter() - start]))
            resident.append((tool.name, [sampled.peak]))
            anonymous.append((tool.name, [sampled.anonymous]))
        finally:
            registry.close()
        shutil.rmtree(home / f"registry-{tool.name}")
    if idle is not None:
        resident.append(("dockerd and containerd before it", [idle]))
    what = f"build and push {size} MiB of random bytes"
    table.group(f"{what}: peak RSS", resident, mebibytes)
    table.group(f"{what}: peak RSS, anonymous", anonymous, mebibytes)
    table.group(f"{what}: time", seconds, whole_seconds)


def subordinate_users(home):
    """Lets `nobody` have subordinate users, in this mount namespace alone."""
    ranges = home / "subid"
    ranges.write_text("nobody:200000000:65536\n")
    for file in ["/etc/subuid", "/etc/subgid"]:
        if not Path(file).exists():
            raise Failed(f"{file} is not there: apt-get install passwd")
        run(["mount", "--bind", str(ranges), file], {"PATH": SEARCH})


def measure(arguments, home):
    home.chmod(0o755)
    program = home / "plywood"
    # A copy: `nobody` may not get at the original, and a build could replace it between two figures.
    shutil.copy(arguments.builder, program)
    program.chmod(0o755)
    subordinate_users(home)
    archive, layout = base_image(program, home)
    for folder in ["root", "rootless"]:
        (home / folder).mkdir()
    os.chown(home / "rootless", NOBODY, NOBODY)
    root = Plywood(program, layout, home / "root")
    rootless = Plywood(program, layout, home / "rootless", user=NOBODY)

    table = Table()
    tools = [root]
    try:
        tools.append(Buildah(archive, home / "buildah"))
        tools.append(Docker(archive, home / "docker"))
        few = max(2, arguments.runs // 2 + 1)
        place = context(home / "two", TWO_STAGES, tools)
        (place / "app.txt").write_text("hello\n")
        no_change(table, tools, place, arguments.runs)
        start_up(table, root, rootless, place, arguments.runs)
        first_run(table, root, place, few)
        marginal_run(table, tools, home, few)
        memory(table, tools, home, 512 if arguments.quick else 2048)
    finally:
        for tool in tools:
            tool.close()

    machine = f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f}"
    print(f"\n{machine}; {arguments.runs} runs of each ({few} where steps run, 1 for memory), the tools in turn.\n"
          "ratio: of medians, the first row of each group, plywood, being 1.00.\n")
    table.show()
    print()
    for tool in tools:
        print(f"{tool.name}: {tool.note}")
    print("Commands have the host's network in all three. RSS is the sum over client, daemons and workers, without the "
          "registry.\n" + RECORDED)


def parse():
    parser = argparse.ArgumentParser(
        description="Measures plywood beside buildah and docker and prints a table with ratios. Run as root."
    )
    parser.add_argument("--builder", type=Path, default=Path("target/release/plywood"), metavar="FILE",
                        help="the plywood binary [default: %(default)s]")
    parser.add_argument("--runs", type=int, default=5, metavar="N",
                        help="runs of each short figure [default: %(default)s]; where steps run it is half of that")
    parser.add_argument("--quick", action="store_true", help="push 512 MiB, not 2 GiB")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs: at least 1")
    return arguments


def isolated():
    """Runs this script again in namespaces of its own; its exit code."""
    namespaces = ["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = ["unshare", *namespaces, sys.executable, *sys.argv]
    child = subprocess.Popen(command, env=os.environ | {"PATH": SEARCH, INSIDE: "1"})

    def forward(*_):
        # unshare(1) takes no notice of SIGTERM itself.
        for inner in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split():
            os.kill(int(inner), signal.SIGTERM)

    signal.signal(signal.SIGTERM, forward)
    # A terminal sends this to the inner one as well, which cleans up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return child.wait()


def main():
    arguments = parse()
    missing = {package for program, package in NEEDED if not shutil.which(program, path=SEARCH)}
    if missing:
        names = " ".join(sorted(missing))
        raise Failed(f"these Debian packages are missing: {names} (apt-get install {names})")
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
        measure(arguments, home)
    finally:
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(f"{home}/")]):
            subprocess.run(["umount", "--lazy", mount], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    try:
        main()
    except Failed as reason:
        sys.exit(f"bench: {reason}")
    except KeyboardInterrupt:
        sys.exit(130)
