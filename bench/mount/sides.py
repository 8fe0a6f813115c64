"""The sides of the comparison: each shows a directory of its own at /workspace
inside a sandbox, and runs worker.py in it."""
import ctypes
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import time

START_SECONDS = 60
CALL_SECONDS = 1800
PYTHON = "/usr/bin/python3"


class Unavailable(Exception):
    """Why a side cannot be measured here, and what would cure it."""


class Failed(Exception):
    """What a side answered instead of a measurement."""


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)   # PR_SET_PDEATHSIG


def start_process(argv, **options):
    """A process that does not outlive this one, whatever ends it; Ctrl-C is ours to pass on."""
    return subprocess.Popen(argv, preexec_fn=_die_with_parent, start_new_session=True, **options)


def run_quietly(argv, **options):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    return done.returncode, done.stdout.decode("utf-8", "replace")


class Worker:
    """worker.py in a side's sandbox."""

    def __init__(self, argv, environment, errors):
        self.errors = errors
        self.process = start_process(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=open(errors, "wb"))
        self.rest = b""
        self.ask({"argv": ["true"]}, START_SECONDS)

    def ask(self, request, seconds=CALL_SECONDS):
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed("its sandbox has ended: " + self.last_words())
        answer = json.loads(self._line(time.monotonic() + seconds))
        if "error" in answer:
            raise Failed("%s: %s" % (request.get("argv", request), answer["error"].strip()))
        return answer

    def _line(self, deadline):
        while b"\n" not in self.rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Failed("no answer within its time: " + self.last_words())
            part = os.read(self.process.stdout.fileno(), 1 << 16)
            if not part:
                raise Failed("its sandbox has ended: " + self.last_words())
            self.rest += part
        line, self.rest = self.rest.split(b"\n", 1)
        return line

    def last_words(self):
        with open(self.errors, "rb") as file:
            return file.read()[-2000:].decode("utf-8", "replace").strip() or "(it said nothing)"

    def end(self, patience):
        try:
            self.process.stdin.close()
        except OSError:
            pass
        end_process(self.process, patience)
        self.process.stdout.close()


def end_process(process, seconds):
    """Lets it end, asks it to, makes it."""
    for wait, act in ((seconds, process.terminate), (seconds, process.kill), (seconds, lambda: None)):
        try:
            process.wait(wait)
            return
        except subprocess.TimeoutExpired:
            act()


class Place:
    """Where everything of a run lies; all of it goes at the end.

    state: programs, sockets, the brokers' state and their audit logs (on a disk).
    data:  what the sides show (--dir)."""

    def __init__(self, state, data, most_files):
        self.state, self.data = state, data
        self.most_files = most_files   # in one tree
        self.tools = state + "/tools"
        self.calls = self.tools + "/bin/calls"
        self.fbroker = self.tools + "/bin/fbroker"
        self.run_help = self.policy_schema = ""

    def build(self):
        code, said = run_quietly(["cc", "-O2", "-o", self.calls, self.tools + "/calls.c"])
        if code != 0:
            raise Unavailable("bench/mount/calls.c cannot be compiled, install gcc and libc6-dev: " + said)
        _, self.run_help = run_quietly([self.fbroker, "run", "--help"])
        _, self.policy_schema = run_quietly([self.fbroker, "policy", "schema"])

    def environment(self, name=None):
        """Nothing of the person's own brokers, state or settings is used or touched."""
        variables = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"}
        for variable, directory in (("HOME", "home"), ("XDG_STATE_HOME", "state"), ("XDG_RUNTIME_DIR", "run"),
                                    ("XDG_CONFIG_HOME", "config")):
            at = "%s/%s-%s" % (self.state, directory, name or "own")
            os.makedirs(at, mode=0o700, exist_ok=True)
            variables[variable] = at
        return variables


def bare_bwrap(place, shown, command):
    """The sandbox of the sides that have no broker: namespaces, an empty
    network, a minimal root and the agent's filter of system calls, as fbroker's."""
    argv = ["bwrap", "--unshare-user", "--uid", str(os.getuid()), "--gid", str(os.getgid()), "--unshare-pid",
            "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup-try", "--die-with-parent",
            "--clearenv", "--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        if os.path.islink("/" + name):
            argv += ["--symlink", os.readlink("/" + name), "/" + name]
        elif os.path.isdir("/" + name):
            argv += ["--ro-bind", "/" + name, "/" + name]
    for name in ("alternatives", "ld.so.cache", "ssl", "localtime", "passwd", "group"):
        argv += ["--ro-bind-try", "/etc/" + name, "/etc/" + name]
    argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/var/tmp", "--tmpfs", "/home/agent",
             "--ro-bind", place.tools, place.tools, "--bind", shown, "/workspace", "--chdir", "/workspace"]
    for name, value in (("PATH", place.tools + "/bin:/usr/local/bin:/usr/bin:/bin"), ("HOME", "/home/agent"),
                        ("USER", "agent"), ("TMPDIR", "/tmp"), ("LANG", "C.UTF-8")):
        argv += ["--setenv", name, value]
    return argv + ["--", place.tools + "/bin/as_agent"] + command


class Side:
    name = ""
    options = ""          # said above the table
    is_fbroker = False
    patience = 10         # seconds that its processes have to end by themselves

    def __init__(self, place):
        self.place = place
        self.files = "%s/%s" % (place.data, self.name)   # the host's files that it shows
        self.worker = None

    def check(self):
        """Raises Unavailable."""

    def start(self):
        """A fresh mount: the kernel knows nothing of it, the daemon neither."""
        self.stop()
        self._mount()
        try:
            self.worker = Worker(self._command([PYTHON, self.place.tools + "/worker.py"]),
                                 self.place.environment(self.name), self._log("sandbox"))
        except Exception:
            self.stop()
            raise

    def stop(self):
        if self.worker:
            self.worker.end(self.patience)
            self.worker = None
        self._unmount()

    def ask(self, request):
        if not self.worker:
            self.start()
        return self.worker.ask(request)

    def start_up(self):
        """argv of a sandbox that does nothing; None where a side has no such thing."""
        return None

    def daemons(self):
        """Processes whose memory is the side's."""
        return []

    def _log(self, what):
        return "%s/%s-%s.log" % (self.place.state, self.name, what)

    def _mount(self):
        pass

    def _unmount(self):
        pass


class Native(Side):
    name = "native"
    options = "the directory itself, bound into the same kind of bubblewrap sandbox"

    def _command(self, command):
        return bare_bwrap(self.place, self.files, command)

    def start_up(self):
        return self._command(["/usr/bin/true"])


def policy_of_50_rules(writer):
    rules = [{"allow": "write", "paths": ["/**"]}, {"deny": "all", "paths": ["/revoked.txt"]}]
    number = 0
    while len(rules) < 50:
        number += 1
        rules.append([{"deny": "all", "paths": ["**/*.secret%d" % number]},
                      {"ask": "write", "paths": ["/guarded/part%d" % number]},
                      {"deny": "write", "paths": ["/vendor/library%d/**" % number], "except": ["**/*.patch"]}][number % 3])
    export = {"at": "/", "from": "."}
    if writer:
        export["writer"] = writer
    return {"version": 1, "exports": [export], "rules": rules}


class Fbroker(Side):
    is_fbroker = True
    writer = None
    transport = ""

    def _command(self, command):
        argv = [self.place.fbroker, "run", "--quiet", "--offline", "--policy", self._policy(), "--root", self.files,
                "--tool", self.place.tools]
        if "--transport" in self.place.run_help:
            argv += ["--transport", self.transport]
        return argv + ["--"] + command

    def _policy(self):
        file = "%s/%s-policy.json" % (self.place.state, self.name)
        if not os.path.exists(file):
            with open(file, "w") as out:
                json.dump(policy_of_50_rules(self.writer), out)
        return file

    def check(self):
        if self.transport != "http" and "--transport" not in self.place.run_help:
            raise Unavailable("this fbroker has no `run --transport`")
        if self.writer and '"writer"' not in self.place.policy_schema:
            raise Unavailable('this fbroker has no `"writer"` for an export')
        # Below the place, so that it shows the files alone.
        code, said = run_quietly(self._command(["/usr/bin/true"]), env=self.place.environment(self.name))
        if code != 0:
            raise Unavailable(said.strip() or "`fbroker run -- true` ended with %d" % code)

    def start_up(self):
        return self._command(["/usr/bin/true"])

    def control(self, *words):
        code, said = run_quietly([self.place.fbroker, *words], env=self.place.environment(self.name))
        if code != 0:
            raise Failed("fbroker %s: %s" % (" ".join(words), said.strip()))
        return said

    def daemons(self):
        """The broker, which is embedded, and fbroker-fuse where there is one; not the launcher."""
        return [pid for pid in descendants(self.worker.process.pid) if arguments(pid)[:2] == ["fbroker", "serve"]
                or arguments(pid)[:1] == ["fbroker-fuse"]]


class Device(Fbroker):
    name, transport = "device", "device"
    options = "fbroker run --transport device: audit on, 50 rules, base rules"


class Http(Fbroker):
    name, transport = "http", "http"
    options = "fbroker run --transport http: audit on, 50 rules, base rules"


class Writeback(Fbroker):
    name, transport, writer = "writeback", "device", "agent"
    options = 'as device, and the export says "writer": "agent"'


class Peer(Side):
    """A FUSE file system of somebody else's, mounted outside, bound into the same sandbox."""
    program = package = ""

    def __init__(self, place):
        super().__init__(place)
        self.mounted = "%s/%s-mount" % (place.state, self.name)
        self.daemon = None

    def check(self):
        for program, package in ((self.program, self.package), ("fusermount3", "fuse3")):
            if not shutil.which(program):
                raise Unavailable("%s is not installed: apt install %s" % (program, package))
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            raise Unavailable("/dev/fuse is not there or may not be opened: modprobe fuse; chmod 666 /dev/fuse")
        self.start()
        self.stop()

    def _mount(self):
        os.makedirs(self.mounted, exist_ok=True)
        os.makedirs(self.files, exist_ok=True)
        self.daemon = start_process(self.argv(), env=self.place.environment(self.name), stdin=subprocess.DEVNULL,
                                    stdout=open(self._log("daemon"), "wb"), stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_SECONDS
        while not is_mounted(self.mounted):
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                self._unmount()
                with open(self._log("daemon")) as log:
                    raise Unavailable("%s does not mount: %s" % (self.name, log.read().strip()))
            time.sleep(0.01)

    def _unmount(self):
        if is_mounted(self.mounted):
            run_quietly(["fusermount3", "-u", "-z", self.mounted])
        if self.daemon:
            end_process(self.daemon, self.patience)
            self.daemon = None

    def _command(self, command):
        return bare_bwrap(self.place, self.mounted, command)

    def daemons(self):
        return [self.daemon.pid]


class Bindfs(Peer):
    name = program = package = "bindfs"
    words = "use_ino,attr_timeout=86400,entry_timeout=86400,negative_timeout=86400,kernel_cache"
    options = "bindfs --multithreaded --no-allow-other -o " + words

    def argv(self):
        return ["bindfs", "-f", "--multithreaded", "--no-allow-other", "-o", self.words, self.files, self.mounted]


class FuseOverlayfs(Peer):
    name = program = package = "fuse-overlayfs"
    options = "fuse-overlayfs with an empty lower directory (its own defaults: timeouts of 10^9 s)"

    def argv(self):
        lower, work = self.place.data + "/overlay-lower", self.place.data + "/overlay-work"
        for directory in (lower, work):
            os.makedirs(directory, exist_ok=True)
        return ["fuse-overlayfs", "-f", "-o", "lowerdir=%s,upperdir=%s,workdir=%s" % (lower, self.files, work),
                self.mounted]


class PassthroughLl(Peer):
    name = "passthrough_ll"
    program, package = "pkg-config", "pkg-config"
    words = "cache=always,timeout=86400,no_xattr"
    options = "libfuse's example passthrough_ll -o " + words + " (a descriptor per known file)"
    examples = "/usr/share/doc/libfuse3-dev/examples"

    def check(self):
        limit, enough = resource.getrlimit(resource.RLIMIT_NOFILE)[0], 3 * self.place.most_files + 5000
        if limit < enough:
            raise Unavailable("it holds a descriptor for every known file, and may hold %d, not %d: ulimit -Hn %d as root, "
                              "or --files %d" % (limit, enough, enough, (limit - 5000) // 3))
        binary = self.place.state + "/passthrough_ll"
        if not os.path.exists(binary):
            self._compile(binary)
        super().check()

    def _compile(self, binary):
        build = self.place.state + "/passthrough_ll-source"
        os.makedirs(build, exist_ok=True)
        for name in ("passthrough_ll.c", "passthrough_helpers.h"):
            for ending in ("", ".gz"):
                if os.path.exists("%s/%s%s" % (self.examples, name, ending)):
                    shutil.copy("%s/%s%s" % (self.examples, name, ending), build)
                    if ending:
                        run_quietly(["gunzip", "-f", "%s/%s.gz" % (build, name)])
                    break
            else:
                raise Unavailable("%s/%s is not there: apt install libfuse3-dev" % (self.examples, name))
        code, flags = run_quietly(["pkg-config", "--cflags", "--libs", "fuse3"])
        if code != 0:
            raise Unavailable("pkg-config does not know fuse3: apt install libfuse3-dev pkg-config")
        code, said = run_quietly(["cc", "-O2", "-D_GNU_SOURCE", "-o", binary, build + "/passthrough_ll.c"] + flags.split())
        if code != 0:
            raise Unavailable("passthrough_ll does not compile: " + said)

    def argv(self):
        return [self.place.state + "/passthrough_ll", "-f", "-o", "source=%s,%s" % (self.files, self.words), self.mounted]


ALL = [Native, Device, Writeback, Http, PassthroughLl, Bindfs, FuseOverlayfs]


def is_mounted(directory):
    with open("/proc/self/mounts") as mounts:
        return any(line.split()[1] == directory for line in mounts)


def arguments(pid):
    """Of its command line; the program without its directory."""
    try:
        with open("/proc/%d/cmdline" % pid) as file:
            words = file.read().split("\0")
    except OSError:
        return []
    return [os.path.basename(words[0])] + words[1:]


def descendants(pid):
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open("/proc/%s/stat" % entry) as file:
                    parent = int(file.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry))
    found = list(children.get(pid, []))
    for one in found:
        found += children.get(one, [])
    return found


def peak_bytes(pid):
    with open("/proc/%d/status" % pid) as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
