#!/usr/bin/env python3
"""A scripted language model for coding agents.

It answers the model APIs that Claude Code, Codex, Gemini CLI, Qwen Code and OpenCode speak, and
whatever it is asked, it orders the steps of one fixed script, one tool call a turn. Which step
comes next is read off the conversation in the request (a call's id names its step), so a repeated
request gets the same answer and a request beside the conversation changes nothing.

Everything is written to a log of JSON lines; README.md describes it.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

Json = dict[str, Any]

# ---------------------------------------------------------------------------------- the script

GRANTED = ".fbroker/granted/spec.txt"
HIDDEN = ".env"
# Gemini CLI's tools refuse every .env, there or not, as outside of the workspace.
ABSENT = r"(?i)no such file|not found|not exist|not in workspace"
CHANGED = r"(?i)success|updated|created|applied"


@dataclass(frozen=True)
class Step:
    """One tool call; `expect` is a pattern that its result must contain."""

    name: str
    action: str
    args: dict[str, str]
    expect: str


SCRIPT: tuple[Step, ...] = (
    Step("list", "list", {"path": "."}, r"notes\.txt"),
    Step("read_notes", "read", {"path": "notes.txt"}, "harbour"),
    Step("read_source", "read", {"path": "main.c"}, r"puts\("),
    Step("edit_source", "edit",
         {"path": "main.c", "old": '    puts("hello");', "new": '    puts("hello, agent");'},
         CHANGED),
    Step("write_file", "write",
         {"path": "out/agent.txt", "text": "written by the agent"}, CHANGED),
    Step("search", "search", {"pattern": "harbour"}, r"notes\.txt"),
    Step("build", "shell",
         {"command": "make -s && ./hello > out/hello.txt && cat out/hello.txt"}, "hello, agent"),
    Step("read_hidden", "read", {"path": HIDDEN}, ABSENT),
    Step("cat_hidden", "shell", {"command": f"cat {HIDDEN}"}, "No such file"),
    Step("wait_for_grant", "shell",
         {"command": f"timeout 60 sh -c 'until cat {GRANTED} 2>/dev/null; do sleep 0.5; done'"},
         "lighthouse"),
    Step("read_granted", "read", {"path": GRANTED}, "lighthouse"),
)
FINISH = "finish"
FINAL_TEXT = "The scripted work is done."
ASIDE_TEXT = "Scripted work"

# ------------------------------------------------------------------------ the agents' own tools

# agent → action → tools that can do it, the first that the request offers is called. In the
# arguments {root} is the project's path, {path} an absolute and {rel} a relative path in it. A
# text in place of arguments makes the call one of free form (Codex's apply_patch).
Arguments = dict[str, Any] | str
TOOLS: dict[str, dict[str, list[tuple[str, Arguments]]]] = {
    "claude": {
        "list": [("LS", {"path": "{path}"}), ("Bash", {"command": "ls -A {path}"})],
        "read": [("Read", {"file_path": "{path}"})],
        "edit": [("Edit", {"file_path": "{path}", "old_string": "{old}", "new_string": "{new}"})],
        "write": [("Write", {"file_path": "{path}", "content": "{text}\n"})],
        "search": [("Grep", {"pattern": "{pattern}", "path": "{root}"}),
                   ("Bash", {"command": "grep -rn {pattern} {root}"})],
        "shell": [("Bash", {"command": "{command}", "timeout": 100000})],
    },
    "codex": {
        "list": [("exec_command", {"cmd": "ls -A {path}"})],
        "read": [("exec_command", {"cmd": "cat {path}"})],
        "edit": [("apply_patch", "*** Begin Patch\n*** Update File: {rel}\n@@\n-{old}\n+{new}\n"
                                 "*** End Patch\n")],
        "write": [("apply_patch", "*** Begin Patch\n*** Add File: {rel}\n+{text}\n"
                                  "*** End Patch\n")],
        "search": [("exec_command", {"cmd": "grep -rn {pattern} {root}"})],
        "shell": [("exec_command", {"cmd": "{command}", "yield_time_ms": 30000})],
    },
    "gemini": {
        "list": [("list_directory", {"dir_path": "{path}"})],
        "read": [("read_file", {"file_path": "{path}"})],
        "edit": [("replace", {"file_path": "{path}", "old_string": "{old}", "new_string": "{new}",
                              "instruction": "Replace {old} by {new}."})],
        "write": [("write_file", {"file_path": "{path}", "content": "{text}\n"})],
        "search": [("grep_search", {"pattern": "{pattern}"}),
                   ("search_file_content", {"pattern": "{pattern}"})],
        "shell": [("run_shell_command", {"command": "{command}", "description": "Shell."})],
    },
    "qwen": {
        "list": [("list_directory", {"path": "{path}"})],
        "read": [("read_file", {"file_path": "{path}"})],
        "edit": [("edit", {"file_path": "{path}", "old_string": "{old}", "new_string": "{new}"})],
        "write": [("write_file", {"file_path": "{path}", "content": "{text}\n"})],
        "search": [("grep_search", {"pattern": "{pattern}"})],
        "shell": [("run_shell_command", {"command": "{command}", "is_background": False,
                                         "description": "Shell."})],
    },
    "opencode": {
        "list": [("list", {"path": "{path}"}), ("glob", {"pattern": "*", "path": "{path}"})],
        "read": [("read", {"filePath": "{path}"})],
        "edit": [("edit", {"filePath": "{path}", "oldString": "{old}", "newString": "{new}"})],
        "write": [("write", {"filePath": "{path}", "content": "{text}\n"})],
        "search": [("grep", {"pattern": "{pattern}"})],
        "shell": [("bash", {"command": "{command}", "description": "Shell."})],
    },
}

# Codex: a result that says that the command still runs, and the tool that waits for the rest.
STILL_RUNNING = re.compile(r"Process running with session ID (\d+)")
WAIT_TOOL = "write_stdin"


@dataclass(frozen=True)
class Call:
    id: str
    tool: str
    args: Arguments


def fill(template: Any, values: dict[str, str]) -> Any:
    if isinstance(template, dict):
        return {key: fill(value, values) for key, value in template.items()}
    return template.format(**values) if isinstance(template, str) else template


def agent_of(tools: set[str]) -> str | None:
    """The agent whose every action can be done with the tools that the request offers."""
    for agent, actions in TOOLS.items():
        if all(any(name in tools for name, _ in choices) for choices in actions.values()):
            return agent
    return None


# ------------------------------------------------------------------------------- the model APIs


@dataclass(frozen=True)
class Result:
    call_id: str
    text: str


class Dialect(Protocol):
    """Reads a request: the names of the tools it offers, the results of tool calls in it, oldest
    first, and the JSON schema for its answer, if any. Writes an answer: as one object, or as a
    stream of events, each a type (may be empty) and data."""

    def tools(self, body: Json) -> set[str]: ...
    def results(self, body: Json) -> list[Result]: ...
    def schema(self, body: Json) -> Json | None: ...
    def message(self, answer: Call | str, model: str) -> Json: ...
    def stream(self, answer: Call | str, model: str) -> Iterator[tuple[str, Json | str]]: ...


def text_of(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else json.dumps(content)


class AnthropicMessages:
    def tools(self, body: Json) -> set[str]:
        return {tool["name"] for tool in body.get("tools", [])}

    def results(self, body: Json) -> list[Result]:
        return [Result(part["tool_use_id"], text_of(part.get("content", "")))
                for message in body["messages"] if isinstance(message["content"], list)
                for part in message["content"] if part["type"] == "tool_result"]

    def schema(self, body: Json) -> Json | None:
        return ((body.get("output_config") or {}).get("format") or {}).get("schema")

    def message(self, answer: Call | str, model: str) -> Json:
        if isinstance(answer, str):
            content: Json = {"type": "text", "text": answer}
        else:
            content = {"type": "tool_use", "id": answer.id, "name": answer.tool,
                       "input": answer.args}
        return {"id": "msg_1", "type": "message", "role": "assistant", "model": model,
                "content": [content], "stop_sequence": None,
                "stop_reason": "end_turn" if isinstance(answer, str) else "tool_use",
                "usage": {"input_tokens": 10, "output_tokens": 10}}

    def stream(self, answer: Call | str, model: str) -> Iterator[tuple[str, Json | str]]:
        whole = self.message(answer, model)
        block = whole["content"][0]
        if isinstance(answer, str):
            start, delta = {**block, "text": ""}, {"type": "text_delta", "text": answer}
        else:
            start = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(answer.args)}
        stop = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        for event in (
            {"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}},
            {"type": "content_block_start", "index": 0, "content_block": start},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 10}},
            {"type": "message_stop"},
        ):
            yield event["type"], event


class OpenAiResponses:
    def tools(self, body: Json) -> set[str]:
        return {tool["name"] for tool in body.get("tools", []) if "name" in tool}

    def results(self, body: Json) -> list[Result]:
        items = body["input"] if isinstance(body["input"], list) else []
        return [Result(item["call_id"], text_of(item["output"])) for item in items
                if item.get("type") in ("function_call_output", "custom_tool_call_output")]

    def schema(self, body: Json) -> Json | None:
        return ((body.get("text") or {}).get("format") or {}).get("schema")

    def message(self, answer: Call | str, model: str) -> Json:
        if isinstance(answer, str):
            item: Json = {"type": "message", "role": "assistant", "id": "msg_1",
                          "content": [{"type": "output_text", "text": answer, "annotations": []}]}
        elif isinstance(answer.args, str):
            item = {"type": "custom_tool_call", "id": f"ctc_{answer.id}", "call_id": answer.id,
                    "name": answer.tool, "input": answer.args}
        else:
            item = {"type": "function_call", "id": f"fc_{answer.id}", "call_id": answer.id,
                    "name": answer.tool, "arguments": json.dumps(answer.args)}
        return {"id": "resp_1", "object": "response", "status": "completed", "model": model,
                "output": [{**item, "status": "completed"}],
                "usage": {"input_tokens": 10, "output_tokens": 10, "total_tokens": 20}}

    def stream(self, answer: Call | str, model: str) -> Iterator[tuple[str, Json | str]]:
        whole = self.message(answer, model)
        item = whole["output"][0]
        started = {**whole, "status": "in_progress", "output": []}
        yield "response.created", {"type": "response.created", "response": started}
        for event in ("response.output_item.added", "response.output_item.done"):
            yield event, {"type": event, "output_index": 0, "item": item}
        yield "response.completed", {"type": "response.completed", "response": whole}


class ChatCompletions:
    def tools(self, body: Json) -> set[str]:
        return {tool["function"]["name"] for tool in body.get("tools", [])}

    def results(self, body: Json) -> list[Result]:
        return [Result(message["tool_call_id"], text_of(message["content"]))
                for message in body["messages"] if message["role"] == "tool"]

    def schema(self, body: Json) -> Json | None:
        return ((body.get("response_format") or {}).get("json_schema") or {}).get("schema")

    def choice(self, answer: Call | str, key: str) -> Json:
        said: Json = {"role": "assistant", "content": answer if isinstance(answer, str) else None}
        if isinstance(answer, Call):
            said["tool_calls"] = [{
                "index": 0, "id": answer.id, "type": "function",
                "function": {"name": answer.tool, "arguments": json.dumps(answer.args)}}]
        return {"index": 0, key: said,
                "finish_reason": "stop" if isinstance(answer, str) else "tool_calls"}

    def message(self, answer: Call | str, model: str, key: str = "message") -> Json:
        kind = "chat.completion.chunk" if key == "delta" else "chat.completion"
        return {"id": "chatcmpl-1", "created": 1, "model": model, "object": kind,
                "choices": [self.choice(answer, key)],
                "usage": {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}}

    def stream(self, answer: Call | str, model: str) -> Iterator[tuple[str, Json | str]]:
        yield "", self.message(answer, model, "delta")
        yield "", "[DONE]"


class GeminiContent:
    def tools(self, body: Json) -> set[str]:
        return {function["name"] for tool in body.get("tools", [])
                for function in tool.get("functionDeclarations", [])}

    def results(self, body: Json) -> list[Result]:
        parts = [part["functionResponse"] for content in body["contents"]
                 for part in content["parts"] if "functionResponse" in part]
        return [Result(part.get("id", ""), "\n".join(map(text_of, part["response"].values())))
                for part in parts]

    def schema(self, body: Json) -> Json | None:
        config = body.get("generationConfig") or {}
        return config.get("responseJsonSchema") or config.get("responseSchema")

    def message(self, answer: Call | str, model: str) -> Json:
        if isinstance(answer, str):
            part: Json = {"text": answer}
        else:
            part = {"functionCall": {"id": answer.id, "name": answer.tool, "args": answer.args}}
        return {"candidates": [{"index": 0, "finishReason": "STOP",
                                "content": {"role": "model", "parts": [part]}}],
                "modelVersion": model,
                "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 10,
                                  "totalTokenCount": 20}}

    def stream(self, answer: Call | str, model: str) -> Iterator[tuple[str, Json | str]]:
        yield "", self.message(answer, model)


# Paths that take a conversation, and paths with one fixed answer.
DIALECTS: tuple[tuple[re.Pattern[str], Dialect], ...] = (
    (re.compile(r"/messages$"), AnthropicMessages()),
    (re.compile(r"/responses$"), OpenAiResponses()),
    (re.compile(r"/chat/completions$"), ChatCompletions()),
    (re.compile(r"/models/(?P<model>[^/:]+):(?P<stream>streamG|g)enerateContent$"),
     GeminiContent()),
)
FIXED: tuple[tuple[str, re.Pattern[str], Json], ...] = (
    ("POST", re.compile(r"/messages/count_tokens$"), {"input_tokens": 1000}),
    ("POST", re.compile(r":countTokens$"), {"totalTokens": 1000}),
    ("GET", re.compile(r"/models$"), {"object": "list", "data": [], "models": []}),
    ("GET", re.compile(r"^/$"), {}),
    ("HEAD", re.compile(r"^/$"), {}),
)


def sample(schema: Json) -> Any:
    """A smallest value that obeys the schema."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = str(schema.get("type", "string")).lower()
    if kind == "object":
        return {name: sample(part) for name, part in schema.get("properties", {}).items()}
    return {"boolean": False, "number": 0, "integer": 0, "array": []}.get(kind, ASIDE_TEXT)


# ----------------------------------------------------------------------------------- the server


def call_id(step: int, wait: int) -> str:
    return f"call_{step:02d}_{wait:02d}"


def position(id_: str) -> tuple[int, int]:
    """The step that a call belongs to (-1: none) and how often the step was waited for before."""
    parts = re.search(r"call_(\d\d)_(\d\d)", id_)
    return (int(parts[1]), int(parts[2])) if parts else (-1, 0)


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    content_type: str = "application/json"


@dataclass
class Session:
    """What one run of an agent has done so far, and its log."""

    log: Path
    root: str
    forbidden: list[str]
    requests: int = 0
    served: set[str] = field(default_factory=set)
    results: dict[str, str] = field(default_factory=dict)
    leaks: int = 0
    finished: bool = False

    def write(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, "time": round(time.time(), 3), **values})
        with self.log.open("a", encoding="utf-8") as out:
            out.write(line + "\n")

    def reply(self, method: str, path: str, raw: bytes, facts: Json) -> Reply:
        self.requests += 1
        facts = {"n": self.requests, **facts}
        for text in self.forbidden:
            if text.encode() in raw:
                self.leaks += 1
                self.write("leak", n=self.requests, text=text)
        for wanted, pattern, answer in FIXED:
            if method == wanted and pattern.search(path):
                self.write("request", **facts, served="fixed")
                return Reply(200, json.dumps(answer).encode())
        for pattern, dialect in DIALECTS:
            if method == "POST" and (parts := pattern.search(path)):
                try:
                    return self.converse(dialect, parts.groupdict(), json.loads(raw), facts)
                except (ValueError, LookupError, TypeError, AttributeError) as error:
                    self.write("request", **facts, served="malformed", error=repr(error))
                    return Reply(400, b'{"error": {"message": "malformed"}}')
        self.write("request", **facts, served="unknown")
        return Reply(404, b'{"error": {"message": "not found", "type": "not_found_error"}}')

    def converse(self, dialect: Dialect, parts: dict[str, str], body: Json, facts: Json) -> Reply:
        model = body.get("model") or parts.get("model", "")
        tools = dialect.tools(body)
        answer: Call | str
        if agent := agent_of(tools):
            results = dialect.results(body)
            self.take_results(results)
            answer, served = self.next_answer(agent, tools, results)
            self.served.add(served)
            seen: Json = {"tool": answer.tool if isinstance(answer, Call) else None}
        else:
            schema = dialect.schema(body)
            answer, served = json.dumps(sample(schema)) if schema else ASIDE_TEXT, "aside"
            seen = {"tools": sorted(tools)}
        self.write("request", **facts, agent=agent, model=model, served=served, **seen)
        if served == FINISH and not self.finished:
            self.finished = True
            self.verdict()
        if body.get("stream") or parts.get("stream") == "streamG":
            events = ((f"event: {name}\n" if name else "") +
                      f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n"
                      for name, data in dialect.stream(answer, model))
            return Reply(200, "".join(events).encode(), "text/event-stream")
        return Reply(200, json.dumps(dialect.message(answer, model)).encode())

    def take_results(self, results: list[Result]) -> None:
        for result in results:
            step, _ = position(result.call_id)
            if step >= 0 and result.call_id not in self.results:
                self.results[result.call_id] = result.text
                self.write("result", step=SCRIPT[step].name, text=result.text)

    def next_answer(self, agent: str, tools: set[str],
                    results: list[Result]) -> tuple[Call | str, str]:
        """The answer to a conversation with these results, and the name of the step it serves."""
        last, waits = position(results[-1].call_id) if results else (-1, 0)
        if WAIT_TOOL in tools and results and (job := STILL_RUNNING.search(results[-1].text)):
            args = {"session_id": int(job[1]), "chars": "", "yield_time_ms": 30000}
            return Call(call_id(last, waits + 1), WAIT_TOOL, args), SCRIPT[last].name
        if last + 1 == len(SCRIPT):
            return FINAL_TEXT, FINISH
        step = SCRIPT[last + 1]
        values = {"root": self.root, **step.args}
        if "path" in step.args:
            values |= {"rel": step.args["path"], "path": f"{self.root}/{step.args['path']}"}
        tool, template = next(choice for choice in TOOLS[agent][step.action] if choice[0] in tools)
        return Call(call_id(last + 1, 0), tool, fill(template, values)), step.name

    def verdict(self) -> None:
        steps: dict[str, str] = {}
        for index, step in enumerate(SCRIPT):
            texts = [text for id_, text in self.results.items() if position(id_)[0] == index]
            steps[step.name] = ("not reached" if step.name not in self.served else
                                "no result" if not texts else
                                "ok" if re.search(step.expect, "\n".join(texts)) else "unexpected")
        good = self.finished and not self.leaks and set(steps.values()) == {"ok"}
        self.write("verdict", ok=good, finished=self.finished, leaks=self.leaks, steps=steps)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    session: Session
    lock = threading.Lock()

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def handle_request(self) -> None:
        raw = self.read_body()
        facts = {"method": self.command, "path": self.path, "host": self.headers.get("Host"),
                 "user_agent": self.headers.get("User-Agent"), "bytes": len(raw)}
        with self.lock:
            reply = self.session.reply(self.command, self.path.split("?")[0], raw, facts)
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_GET = do_HEAD = do_POST = handle_request

    def log_message(self, format: str, *args: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description="A scripted language model for coding agents.")
    parser.add_argument("--bind", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one (default)")
    parser.add_argument("--log", type=Path, required=True, help="file of JSON lines")
    parser.add_argument("--root", default="/workspace", help="the project's path as agents see it")
    parser.add_argument("--forbid", action="append", default=[], metavar="TEXT",
                        help="plain text that no request may contain (may be repeated)")
    options = parser.parse_args()

    Handler.session = Session(options.log, options.root, options.forbid)
    server = ThreadingHTTPServer((options.bind, options.port), Handler)
    server.daemon_threads = True
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    print(json.dumps({"bind": options.bind, "port": server.server_address[1]}), flush=True)
    try:
        server.serve_forever()
    finally:
        if not Handler.session.finished:
            Handler.session.verdict()


if __name__ == "__main__":
    main()
