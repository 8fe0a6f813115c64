"""What runs inside a side's sandbox: takes commands as lines of JSON on stdin,
runs each, times it with the monotonic clock, answers with a line of JSON.

  {"argv": [...], "cwd": DIR, "ok": [0]}      {"seconds": S, "status": N, "out": TEXT}
  {"sqlite": FILE, "commits": N}              {"seconds": S}
  {"background": [...]}                       {}          until {"end_background": true}
"""
import json
import sqlite3
import subprocess
import sys
import time

MOST_OUTPUT = 4000


def run(request):
    begin = time.monotonic()
    done = subprocess.run(request["argv"], cwd=request.get("cwd", "/workspace"), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE if request.get("keep") else subprocess.DEVNULL,
                          stderr=subprocess.PIPE)
    seconds = time.monotonic() - begin
    answer = {"seconds": seconds, "status": done.returncode, "out": (done.stdout or b"").decode("utf-8", "replace")}
    if done.returncode not in request.get("ok", [0]):
        answer["error"] = "status %d: %s" % (done.returncode, done.stderr[-MOST_OUTPUT:].decode("utf-8", "replace"))
    return answer


def insert(file, commits):
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("create table entries (number integer primary key, words text)")
    begin = time.monotonic()
    for number in range(commits):   # a transaction each
        database.execute("insert into entries values (?, ?)", (number, "words " * 20))
    seconds = time.monotonic() - begin
    database.close()
    return {"seconds": seconds}


def main():
    background = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "sqlite" in request:
                answer = insert(request["sqlite"], request["commits"])
            elif "background" in request:
                background = subprocess.Popen(request["background"], stdin=subprocess.PIPE)
                answer = {}
            elif "end_background" in request:
                background.stdin.close()
                answer = {"status": background.wait()}
            else:
                answer = run(request)
        except Exception as problem:   # told to the side that asked, and the next request is served
            answer = {"error": "%s: %s" % (type(problem).__name__, problem)}
        print(json.dumps(answer), flush=True)


main()
