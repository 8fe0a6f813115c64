"""What is measured. A workload prepares a side once and is then measured in
every round; it records one number for each of its rows."""
import json
import os
import shutil
import subprocess
import time

from mount import sides as s

WORKSPACE = "/workspace"
TREE = WORKSPACE + "/tree"
GIT = ["git", "-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false"]
MIX_CALLS = 1500
LATENCY_CALLS = 5000


class Row:
    """unit is what a person reads: seconds are recorded, bytes for memory.
    compared: natively there is such a thing, too. The p99 are not in the mean:
    they say as much of what else the machine does."""

    def __init__(self, name, unit="ms", compared=True):
        self.name, self.unit, self.compared = name, unit, compared
        self.in_mean = compared and not name.endswith("p99")


class Workload:
    rows = ()
    fbroker_only = False

    def __init__(self, run):
        self.run = run   # sizes, rounds and which rows are wanted

    def wanted(self, *names):
        return any(self.run.wants(name) for name in names)

    def suits(self, side):
        return side.is_fbroker or not self.fbroker_only

    def prepare(self, side):
        pass

    def measure(self, side, number, record):
        raise NotImplementedError

    # --- Words for what most of them do

    def seconds(self, side, argv, ok=(0,)):
        return side.ask({"argv": argv, "ok": list(ok)})["seconds"]

    def calls(self, side, *words):
        answer = side.ask({"argv": [side.place.calls] + [str(word) for word in words], "keep": True})
        return json.loads(answer["out"])


class Tree(Workload):
    """A repository of many small files: looked at, searched, opened."""

    rows = (Row("git status, cold"), Row("git status, warm"), Row("find, cold"), Row("find, warm"), Row("grep -r, warm"),
            Row("ripgrep, warm"), Row("open+read+close, p50", "us"), Row("open+read+close, p99", "us"),
            Row("stat, p50", "us"), Row("stat, p99", "us"))

    def prepare(self, side):
        prepare_tree(self.run, side)

    def measure(self, side, number, record):
        if self.wanted("git status, cold", "git status, warm"):
            side.start()
            for row in ("git status, cold", "git status, warm"):
                record(row, self.seconds(side, GIT + ["-C", TREE, "status", "--porcelain"]))
        find = ["find", TREE, "-xdev", "-printf", "%s %p\\n"]
        if self.wanted("find, cold", "find, warm"):
            side.start()
            for row in ("find, cold", "find, warm"):
                record(row, self.seconds(side, find))
        for row, search in (("grep -r, warm", ["grep", "-r", "nothing like this"]),
                            ("ripgrep, warm", ["rg", "-uuu", "-j2", "nothing like this"])):
            if self.wanted(row) and shutil.which(search[0], path="/usr/bin"):
                self.seconds(side, search + [TREE], ok=(0, 1))   # makes it warm
                record(row, self.seconds(side, search + [TREE], ok=(0, 1)))
        for call, name in (("open", "open+read+close"), ("stat", "stat")):
            if self.wanted(name + ", p50", name + ", p99"):
                each = self.calls(side, call, TREE, self.run.files, LATENCY_CALLS)
                record(name + ", p50", each["p50"])
                record(name + ", p99", each["p99"])


class ManyFiles(Workload):
    """Makes, copies and removes as many files as the tree has."""

    rows = (Row("untar"), Row("cp -r"), Row("rm -rf"))

    def prepare(self, side):
        archive = self.run.place.tools + "/tree.tar"
        if not os.path.exists(archive):
            template = tree_template(self.run)
            check(["tar", "-cf", archive, "--exclude=.git", "-C", template, "."])

    def measure(self, side, number, record):
        untarred, copied = WORKSPACE + "/untarred", WORKSPACE + "/copied"
        self.seconds(side, ["mkdir", untarred])
        record("untar", self.seconds(side, ["tar", "-xf", self.run.place.tools + "/tree.tar", "-C", untarred]))
        if self.wanted("cp -r", "rm -rf"):
            record("cp -r", self.seconds(side, ["cp", "-r", untarred, copied]))
            record("rm -rf", self.seconds(side, ["rm", "-rf", copied]))
        self.seconds(side, ["rm", "-rf", untarred])


class BigFile(Workload):
    """One large file: whole, and 4 KiB here and there."""

    rows = (Row("read, cold"), Row("read, warm"), Row("random read 4 KiB, each", "us"),
            Row("random write 4 KiB, each", "us"), Row("write and fsync"))

    def measure(self, side, number, record):
        # A name and a file anew in each round: nothing of it is in the mount's cache.
        name = "big-%d" % number
        at = WORKSPACE + "/" + name
        reads = [row.name for row in self.rows[:-1]]
        if self.wanted(*reads):
            check([side.place.calls, "write", side.files + "/" + name, str(self.run.megabytes)])
            record("read, cold", self.calls(side, "read", at)["seconds"])
            record("read, warm", self.calls(side, "read", at)["seconds"])
            for call in ("read", "write"):
                row, count = "random %s 4 KiB, each" % call, self.run.random_calls
                if self.wanted(row):
                    record(row, self.calls(side, "random-" + call, at, count)["seconds"] / count)
            self.seconds(side, ["rm", at])   # inside, where daemons hold it open
        if self.wanted("write and fsync"):
            record("write and fsync", self.calls(side, "write", at + "w", self.run.megabytes)["seconds"])
            self.seconds(side, ["rm", at + "w"])


class Build(Workload):
    """A C project of some dozens of files that share headers, make -j2."""

    rows = (Row("C build, make -j2"),)

    def prepare(self, side):
        for program in ("make", "gcc"):
            if not shutil.which(program, path="/usr/bin:/bin"):
                raise s.Unavailable("%s is not installed: apt install %s" % (program, program))
        at = side.files + "/project"
        os.makedirs(at + "/include")
        for header in range(12):
            with open("%s/include/part%d.h" % (at, header), "w") as out:
                out.write("#pragma once\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n")
                out.writelines("static inline int part%d_%d(int x) { return x * %d + %d; }\n" % (header, i, i + 3, header)
                               for i in range(40))
        for unit in range(self.run.c_files):
            with open("%s/unit%02d.c" % (at, unit), "w") as out:
                out.writelines('#include "part%d.h"\n' % header for header in range(12))
                out.writelines("int unit%d_%d(int x) { for (int i = 0; i < x; ++i) x += part%d_%d(i) %% %d; return x; }\n"
                               % (unit, i, i % 12, i, i + 2) for i in range(30))
        with open(at + "/main.c", "w") as out:
            out.writelines("int unit%d_0(int);\n" % unit for unit in range(self.run.c_files))
            out.write("int main(void) { return (" + " + ".join("unit%d_0(%d)" % (u, u) for u in range(self.run.c_files)) + ") & 0; }\n")
        with open(at + "/Makefile", "w") as out:
            out.write("objects := $(patsubst %.c,%.o,$(wildcard *.c))\nCFLAGS := -O1 -Iinclude -MMD\n"
                      "program: $(objects)\n\tgcc -o $@ $^\n%.o: %.c\n\tgcc $(CFLAGS) -c -o $@ $<\n"
                      "clean:\n\trm -f program *.o *.d\n-include $(wildcard *.d)\n")

    def measure(self, side, number, record):
        make = ["make", "-s", "-C", WORKSPACE + "/project"]
        record("C build, make -j2", self.seconds(side, make + ["-j2"]))
        self.seconds(side, make + ["clean"])


class Sqlite(Workload):
    """A transaction for every row inserted, with SQLite's own defaults."""

    rows = (Row("SQLite insert, a commit each", "us"),)

    def measure(self, side, number, record):
        at = "%s/entries-%d.sqlite" % (WORKSPACE, number)
        record(self.rows[0].name, side.ask({"sqlite": at, "commits": self.run.commits})["seconds"] / self.run.commits)
        self.seconds(side, ["rm", at])


class Mixed(Workload):
    """Four processes that look, read, list, make, rename and remove."""

    rows = (Row("four processes mixed"),)

    def prepare(self, side):
        prepare_tree(self.run, side)

    def measure(self, side, number, record):
        record(self.rows[0].name,
               self.calls(side, "mixed", TREE, self.run.files, WORKSPACE + "/mixed", MIX_CALLS)["seconds"])


class StartUp(Workload):
    """A sandbox that runs `true`, from outside; natively that of bubblewrap alone."""

    rows = (Row("sandbox start-up"),)

    def suits(self, side):
        return side.start_up() is not None

    def measure(self, side, number, record):
        side.stop()   # a broker of that name lives only once
        begin = time.monotonic()
        code, said = s.run_quietly(side.start_up(), env=side.place.environment(side.name))
        seconds = time.monotonic() - begin
        if code != 0:
            raise s.Failed("start-up: " + said.strip())
        record(self.rows[0].name, seconds)


class Revocation(Workload):
    """A grant and its revoke, while a process inside reads the file all the time.
    The time is the broker's own: from the request to nothing being readable any more."""

    rows = (Row("revoke, p50", compared=False), Row("revoke, p99", compared=False), Row("revoke, max", compared=False))
    fbroker_only = True

    def prepare(self, side):
        with open(side.files + "/revoked.txt", "w") as out:
            out.write("held open\n" * 1000)

    def measure(self, side, number, record):
        side.start()
        side.ask({"background": [side.place.calls, "hold", WORKSPACE + "/revoked.txt"]})
        each = []
        for _ in range(self.run.revokes):
            side.control("grant", WORKSPACE + "/revoked.txt", "--read", "--override-deny", "--for", "15m")
            time.sleep(0.005)   # it is opened and read
            answer = json.loads(side.control("revoke", WORKSPACE + "/revoked.txt", "--json"))
            each.append(answer["milliseconds"] / 1000)
        side.ask({"end_background": True})
        each.sort()
        for row, at in (("revoke, p50", len(each) // 2), ("revoke, p99", len(each) * 99 // 100), ("revoke, max", -1)):
            record(row, each[at])


class Memory(Workload):
    """The most that the daemons ever had resident, after so many names were listed and looked up."""

    def __init__(self, run):
        super().__init__(run)
        self.rows = tuple(Row("daemon memory, {:,} files".format(count), "MiB", compared=False) for count in run.memory)

    def suits(self, side):
        return not isinstance(side, s.Native)

    def measure(self, side, number, record):
        if number > 0:   # it does not vary enough for another round
            return
        for row, count in zip(self.rows, self.run.memory):
            if not self.wanted(row.name):
                continue
            side.stop()
            check([side.place.calls, "make-tree", side.files + "/many", str(count), "0"])
            side.start()
            self.seconds(side, ["find", WORKSPACE + "/many", "-printf", "%s"])
            record(row.name, sum(s.peak_bytes(pid) for pid in side.daemons()))
            side.stop()
            shutil.rmtree(side.files + "/many")


ALL = [Tree, ManyFiles, BigFile, Build, Sqlite, Mixed, StartUp, Revocation, Memory]


def check(argv, **options):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)
    if done.returncode != 0:
        raise s.Failed("%s: %s" % (" ".join(argv), done.stderr.decode("utf-8", "replace").strip()))


def tree_template(run):
    """Made once: a repository in which everything is committed."""
    at = run.place.data + "/template"
    if not os.path.exists(at):
        check([run.place.calls, "make-tree", at, str(run.files), "6000"])
        git = GIT + ["-C", at, "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"]
        environment = run.place.environment()
        check(git + ["init", "-q"], env=environment)
        check(git + ["add", "-A"], env=environment)
        check(git + ["commit", "-q", "-m", "tree"], env=environment)
    return at


def prepare_tree(run, side):
    if os.path.exists(side.files + "/tree"):
        return
    template = tree_template(run)
    side.stop()
    check(["cp", "-a", template, side.files + "/tree"])
    # The index keeps inode numbers and times: as this side shows them.
    side.ask({"argv": GIT + ["-C", TREE, "status", "--porcelain"]})
    time.sleep(0.01)
