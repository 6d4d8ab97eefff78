"""Asks a served model one question, as a command would: `served_run.py MODEL_FOLDER RUN_FOLDER`."""

import sys
from pathlib import Path

from clair_apo.errors import reported_errors
from clair_apo.llm import CachedChat, ModelSpec, RequestStore
from clair_apo.llm.backends.vllm_server import ModelServers
from clair_apo.records import Message
from tests.helpers.llm_requests import answers_of


def main() -> None:
    spec = ModelSpec(model=sys.argv[1], serve="vllm", patience_s=60)
    run = Path(sys.argv[2])
    with reported_errors(), RequestStore(run / "s.sqlite") as store, ModelServers(run) as servers:
        chat = CachedChat(spec, store, servers=servers)
        answers_of(chat, [chat.request((Message(role="user", content="hello"),))])


if __name__ == "__main__":
    main()
