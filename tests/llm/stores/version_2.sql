-- What version 2 of the request store held: rows had no checksums.
PRAGMA user_version = 2;
BEGIN TRANSACTION;
CREATE TABLE answers (
    key TEXT NOT NULL UNIQUE,    -- ChatRequest.key
    model TEXT NOT NULL,         -- identity of the model that answered
    run_id TEXT NOT NULL,        -- the run that asked
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    answered_at REAL NOT NULL,   -- seconds since 1970
    response TEXT NOT NULL       -- the raw response, JSON
);
INSERT INTO answers VALUES('a','m','r1',5,7,1700000001.25,'{"choices":[{"message":{"content":"Grüße, 世界"}}],"usage":{"prompt_tokens":5,"completion_tokens":7}}');
INSERT INTO answers VALUES('b','n@1','r1',0,0,1700000001.25,'{"n":1.5,"half":"\ud83d"}');
CREATE TABLE batches (
    id TEXT PRIMARY KEY,         -- the server's name for it; ours until there is one
    shard TEXT NOT NULL UNIQUE,  -- our name for it, also in its metadata at the server
    model TEXT NOT NULL,         -- identity of the model that is asked
    host TEXT NOT NULL,          -- the server
    run_id TEXT NOT NULL,        -- the run that asked
    state TEXT NOT NULL,         -- as the server last named it, or one of ours
    created REAL NOT NULL,       -- seconds since 1970
    keys TEXT NOT NULL           -- the request keys, JSON
);
INSERT INTO batches VALUES('b1','sh','m','host:1','r1','validating',5.0,'["k1", "k2"]');
CREATE TABLE failures (  -- of no account for a key that is in `answers`
    key TEXT PRIMARY KEY,        -- ChatRequest.key
    reason TEXT NOT NULL,        -- for people
    failed_at REAL NOT NULL      -- seconds since 1970
);
INSERT INTO failures VALUES('534618f53bdb1739a66f6998d925207dfc3bb81094efe0d5093554679c3c77f4','no',1700000002.25);
CREATE INDEX spent ON answers (run_id, model, prompt_tokens, completion_tokens);
COMMIT;
