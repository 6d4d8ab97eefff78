"""The tables of the request store, the statements on them, and the records of their rows."""

from dataclasses import dataclass

from clair_apo.llm.types import RawResponse

VERSION = 3
"""Goes up where an older program would misread a store; a new table alone is no such thing."""
OLDER_VERSIONS = (2,)
"""Those that are brought up to date when they are opened: 2 had no checksums."""
CHECKSUM = "checksum"
"""The last column of every table; see `clair_apo.llm.store_checksums`."""

# An answer's row goes to the end of its table, its key into an index: with the row under the key
# itself every new answer would rewrite a page somewhere in the whole file. `spent` holds all that
# the sum of a run's tokens needs, so that it never reads a response.
SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT NOT NULL UNIQUE,    -- ChatRequest.key
    model TEXT NOT NULL,         -- identity of the model that answered
    run_id TEXT NOT NULL,        -- the run that asked
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    answered_at REAL NOT NULL,   -- seconds since 1970
    response TEXT NOT NULL,      -- the raw response, JSON
    checksum TEXT                -- of the row, as in all tables
)""",
    """
CREATE INDEX IF NOT EXISTS spent ON answers (run_id, model, prompt_tokens, completion_tokens)""",
    """
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY,         -- the server's name for it; ours until there is one
    shard TEXT NOT NULL UNIQUE,  -- our name for it, also in its metadata at the server
    model TEXT NOT NULL,         -- identity of the model that is asked
    host TEXT NOT NULL,          -- the server
    run_id TEXT NOT NULL,        -- the run that asked
    state TEXT NOT NULL,         -- as the server last named it, or one of ours
    created REAL NOT NULL,       -- seconds since 1970
    keys TEXT NOT NULL,          -- the request keys, JSON
    checksum TEXT
)""",
    """
CREATE TABLE IF NOT EXISTS failures (  -- of no account for a key that is in `answers`
    key TEXT PRIMARY KEY,        -- ChatRequest.key
    reason TEXT NOT NULL,        -- for people
    failed_at REAL NOT NULL,     -- seconds since 1970
    checksum TEXT
)""",
    """
CREATE TABLE IF NOT EXISTS broken_off (  -- paid for, and no whole answers: asked again
    key TEXT NOT NULL,           -- the rest as in `answers`; a key may have several
    model TEXT NOT NULL,
    run_id TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    answered_at REAL NOT NULL,
    response TEXT NOT NULL,
    checksum TEXT,
    PRIMARY KEY (key, answered_at)
)""",
)
TABLES = ("answers", "batches", "failures", "broken_off")
_COLUMNS = "key, model, run_id, prompt_tokens, completion_tokens, answered_at, response"

SPENT = """
SELECT model, count(*), sum(prompt_tokens), sum(completion_tokens) FROM {table}
WHERE run_id = ? GROUP BY model"""
"""What a run's responses in `answers`, or in `broken_off`, come to by model."""
BREAK_OFF = f"""
INSERT INTO broken_off SELECT {_COLUMNS}, checksum FROM answers WHERE key = ?
ON CONFLICT DO NOTHING"""
PUT_BROKEN_OFF = "INSERT INTO broken_off VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"

PUT_ANSWER = """
INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING"""
PUT_BATCH = """
INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
UPDATE_BATCH = """
UPDATE batches SET state = ?1, id = ?2,
    checksum = checksum(?2, shard, model, host, run_id, ?1, created, keys)
WHERE shard = ?3"""
PUT_FAILURE = """
INSERT INTO failures VALUES (?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    reason = excluded.reason, failed_at = excluded.failed_at, checksum = excluded.checksum"""

# from a store that is attached as `other`; `WHERE true`: without it the parser takes ON CONFLICT
# for a join. A run's name may change on the way (?1 to ?2), and with it the checksum
CONFLICTS = """
SELECT count(*) FROM other.answers AS theirs JOIN main.answers AS ours USING (key)
WHERE theirs.response != ours.response"""
OURS_IN_CONFLICT = """
SELECT key, ours.response FROM other.answers AS theirs JOIN main.answers AS ours USING (key)
WHERE theirs.response != ours.response"""
TAKE_BROKEN_OFF = """
INSERT INTO main.broken_off
SELECT key, model, run, prompt_tokens, completion_tokens, answered_at, response,
    checksum(key, model, run, prompt_tokens, completion_tokens, answered_at, response)
FROM (SELECT *, CASE run_id WHEN ?1 THEN ?2 ELSE run_id END AS run FROM other.broken_off)
WHERE true ON CONFLICT DO NOTHING"""
TAKE_ANSWERS = """
INSERT INTO main.answers
SELECT key, model, run, prompt_tokens, completion_tokens, answered_at, response,
    checksum(key, model, run, prompt_tokens, completion_tokens, answered_at, response)
FROM (SELECT *, CASE run_id WHEN ?1 THEN ?2 ELSE run_id END AS run, rowid AS place
    FROM other.answers)
WHERE true ORDER BY place ON CONFLICT (key) DO NOTHING"""
TAKE_BATCHES = """
INSERT INTO main.batches
SELECT id, shard, model, host, run, state, created, keys,
    checksum(id, shard, model, host, run, state, created, keys)
FROM (SELECT *, CASE run_id WHEN ?1 THEN ?2 ELSE run_id END AS run FROM other.batches)
WHERE true ON CONFLICT DO NOTHING"""
TAKE_FAILURES = """
INSERT INTO main.failures
SELECT key, reason, failed_at, checksum(key, reason, failed_at) FROM other.failures WHERE true
ON CONFLICT (key) DO UPDATE SET
    reason = excluded.reason, failed_at = excluded.failed_at, checksum = excluded.checksum
WHERE excluded.failed_at > failed_at"""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A response to be put into the store."""

    key: str
    model: str
    """Identity of the model that answered."""
    response: RawResponse


@dataclass(frozen=True, slots=True)
class Spent:
    """The requests and tokens of one model in one run."""

    answers: int
    """Those that broke off included."""
    prompt_tokens: int
    completion_tokens: int

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            self.answers + other.answers,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True, slots=True)
class TakenOver:
    """The numbers of answers that a store took over from another one."""

    answers: int
    """Those that were new."""
    conflicts: int
    """Requests that both answer, differently; the answer that was there first stays."""


CREATING = "creating"
"""State of a batch of which it is not known yet whether the server has it."""
READ = "read"
"""State of a batch of which all that it will ever answer is in the store."""
FORGOTTEN = "forgotten"
"""State of a batch that the server does not have, or that it did not take."""


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch of requests that was handed to a server, which answers it later."""

    id: str
    """The server's name for it; ours until there is one."""
    name: str
    """Our name for it, also in its metadata at the server; the column `shard`."""
    model: str
    """Identity of the model that is asked."""
    host: str
    run_id: str
    state: str
    """As the server last named it, or `CREATING`, `READ` or `FORGOTTEN`."""
    created: float
    """Seconds since 1970."""
    keys: tuple[str, ...]
    """The requests' keys, in the order of the file."""

    @property
    def open(self) -> bool:
        """Whether it may still hold answers that are not in the store."""
        return self.state not in (READ, FORGOTTEN)
