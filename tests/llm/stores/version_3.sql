-- A request store of version 3: every row has a checksum, and what broke off has a table.
PRAGMA user_version = 3;
BEGIN TRANSACTION;
CREATE TABLE answers (
    key TEXT NOT NULL UNIQUE,    -- ChatRequest.key
    model TEXT NOT NULL,         -- identity of the model that answered
    run_id TEXT NOT NULL,        -- the run that asked
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    answered_at REAL NOT NULL,   -- seconds since 1970
    response TEXT NOT NULL,      -- the raw response, JSON
    checksum TEXT                -- of the row, as in all tables
);
INSERT INTO "answers" VALUES('a','m','r1',5,7,1700000001.25,'{"choices":[{"message":{"content":"Grüße, 世界"}}],"usage":{"prompt_tokens":5,"completion_tokens":7}}','d35953e9ce0c9348');
INSERT INTO "answers" VALUES('b','n@1','r1',0,0,1700000001.25,'{"n":1.5,"half":"\ud83d"}','2889535c7e331aae');
INSERT INTO "answers" VALUES('beb29f70cce1b3b61b27f4ac598e510ce0d4b941e0948870cd16c541fb9a9892','m','r2',3,2,1700000001.25,'{"choices":[{"message":{"content":"kept"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}','ec75e5c1b9049620');
CREATE TABLE batches (
    id TEXT PRIMARY KEY,         -- the server's name for it; ours until there is one
    shard TEXT NOT NULL UNIQUE,  -- our name for it, also in its metadata at the server
    model TEXT NOT NULL,         -- identity of the model that is asked
    host TEXT NOT NULL,          -- the server
    run_id TEXT NOT NULL,        -- the run that asked
    state TEXT NOT NULL,         -- as the server last named it, or one of ours
    created REAL NOT NULL,       -- seconds since 1970
    keys TEXT NOT NULL,          -- the request keys, JSON
    checksum TEXT
);
INSERT INTO "batches" VALUES('b1','sh','m','host:1','r1','validating',5.0,'["k1", "k2"]','d706f9bade3bdf66');
CREATE TABLE broken_off (  -- paid for, and no whole answers: asked again
    key TEXT NOT NULL,           -- the rest as in `answers`; a key may have several
    model TEXT NOT NULL,
    run_id TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    answered_at REAL NOT NULL,
    response TEXT NOT NULL,
    checksum TEXT,
    PRIMARY KEY (key, answered_at)
);
INSERT INTO "broken_off" VALUES('c','m','r2',4,1,1700000001.25,'{"choices":[{"message":{"content":"half"},"finish_reason":null}],"usage":{"prompt_tokens":4,"completion_tokens":1}}','d134affe0f1fd39b');
CREATE TABLE failures (  -- of no account for a key that is in `answers`
    key TEXT PRIMARY KEY,        -- ChatRequest.key
    reason TEXT NOT NULL,        -- for people
    failed_at REAL NOT NULL,     -- seconds since 1970
    checksum TEXT
);
INSERT INTO "failures" VALUES('534618f53bdb1739a66f6998d925207dfc3bb81094efe0d5093554679c3c77f4','no',1700000001.25,'186b7cf7a8be86ca');
CREATE INDEX spent ON answers (run_id, model, prompt_tokens, completion_tokens);
COMMIT;
