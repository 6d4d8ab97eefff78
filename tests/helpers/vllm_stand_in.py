"""Stands in for `vllm`: takes `serve FOLDER --host H --port P --served-model-name NAME ...`.

The environment says how it behaves: STAND_IN_NOTES is a folder for what the test wants to know
(`starts`: the arguments of each start, a line each; `pids`: it and a process that it started), and
STAND_IN one of

    answers       from the start
    dies          with a traceback while it loads
    silent        never listens
    taken         the first start finds its port taken, the next answers
    stranger      another process has the port: it answers with another model's name
    dies_later    answers one request and dies at the next
    hangs         answers no request
    stubborn      like hangs, and takes no SIGTERM
"""

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BEHAVIOUR = os.environ.get("STAND_IN", "answers")
NOTES = Path(os.environ["STAND_IN_NOTES"])


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answered = 0

    def log_message(self, *args: object) -> None:
        pass

    def _send(self, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if "VLLM_API_KEY" in os.environ:  # vLLM then wants it from everybody
            self.send_error(401)
            return
        name = "another" if BEHAVIOUR == "stranger" else option("--served-model-name")
        self._send({"data": [{"id": name}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with (NOTES / "asked").open("a") as file:
            file.write(json.dumps({"body": asked, "headers": dict(self.headers)}) + "\n")
        if BEHAVIOUR in ("hangs", "stubborn"):
            time.sleep(600)
        if BEHAVIOUR == "dies_later" and Handler.answered:
            sys.stderr.write("\x1b[31mRuntimeError: the engine is dead\x1b[0m\n")
            sys.stderr.flush()
            os._exit(7)
        Handler.answered += 1
        text = f"answer to {asked['messages'][-1]['content'][-200:]}"
        self._send(
            {
                "object": "chat.completion",
                "model": asked["model"],
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text},
                        "finish_reason": "stop",
                    }
                ],
                "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9},
            }
        )


def main() -> None:
    with (NOTES / "starts").open("a") as file:
        file.write(json.dumps(sys.argv[1:]) + "\n")
    starts = (NOTES / "starts").read_text().count("\n")
    if BEHAVIOUR == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stderr.write("loading the weights\n")
    if BEHAVIOUR == "dies":
        raise MemoryError("no room for the weights")
    if BEHAVIOUR == "taken" and starts == 1:
        sys.exit("OSError: [Errno 98] Address already in use")
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (NOTES / "pids").write_text(f"{os.getpid()} {engine.pid}")
    if BEHAVIOUR == "silent":
        time.sleep(600)
    ThreadingHTTPServer((option("--host"), int(option("--port"))), Handler).serve_forever()


if __name__ == "__main__":
    main()
