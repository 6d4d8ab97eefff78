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
INSERT INTO "answers" VALUES('f01f3f55f36f5517f02e51903671257ca10fafc5ed5b5730303650dbeca958da','target','9a535b1ae92b4819abab17314ece7abf',20,10,1.79605155522730565074e+09,'{"object":"chat.completion","model":"target","choices":[{"index":0,"message":{"role":"assistant","content":"The answer is plain."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','81832fd53db93b16');
INSERT INTO "answers" VALUES('8a05d10632f06443b58c7b7289b003bb582bcf2e16a6e5de159d840850bf8b37','target','9a535b1ae92b4819abab17314ece7abf',20,10,1.79605155522859311102e+09,'{"object":"chat.completion","model":"target","choices":[{"index":0,"message":{"role":"assistant","content":"The answer is plain. Really so."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','a225463f1a55a643');
INSERT INTO "answers" VALUES('01828774243370135492b0066e14520c52c0956b3c9156b4b6cd7b8d64832494','judge','9a535b1ae92b4819abab17314ece7abf',20,10,1.79605155524593400957e+09,'{"object":"chat.completion","model":"judge","choices":[{"index":0,"message":{"role":"assistant","content":"<verdict>2</verdict>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','8baec62d65ea9cea');
INSERT INTO "answers" VALUES('99ff4d0d37b12a8b9d7f759507d54ece163962856fddd07deb805ac4180affc4','judge','9a535b1ae92b4819abab17314ece7abf',20,10,1.79605155524740958215e+09,'{"object":"chat.completion","model":"judge","choices":[{"index":0,"message":{"role":"assistant","content":"<verdict>1</verdict>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','83bb668515266b8f');
INSERT INTO "answers" VALUES('5ee12bb0a4a78997cff55f1edac7553f708f79abbfc6826414a1ac9921eecaaf','reviser','9a535b1ae92b4819abab17314ece7abf',20,10,1.79605155527708649628e+09,'{"object":"chat.completion","model":"reviser","choices":[{"index":0,"message":{"role":"assistant","content":"<reasoning>\nbecause\n</reasoning>\n<revision>\nThe answer is plain. Really so. Really so. And it says why.\n</revision>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','438c6a0ae5e54618');
INSERT INTO "answers" VALUES('eb6404b75360a098578e78efe25f36f8e1e4eeef3159ae82b7eb2a73d17d781a','judge','9a535b1ae92b4819abab17314ece7abf',20,10,1.79605155532484221463e+09,'{"object":"chat.completion","model":"judge","choices":[{"index":0,"message":{"role":"assistant","content":"<verdict>yes</verdict>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','1f25e597358a51e7');
INSERT INTO "answers" VALUES('eac0c479e24b5dcb1d59f5c056515daed4957331a7ec708eef06a348c694f620','judge','9a535b1ae92b4819abab17314ece7abf',20,10,1.79605155532626867297e+09,'{"object":"chat.completion","model":"judge","choices":[{"index":0,"message":{"role":"assistant","content":"<verdict>no</verdict>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','e56a32b9b2f0e607');
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
CREATE TABLE failures (  -- of no account for a key that is in `answers`
    key TEXT PRIMARY KEY,        -- ChatRequest.key
    reason TEXT NOT NULL,        -- for people
    failed_at REAL NOT NULL,     -- seconds since 1970
    checksum TEXT
);
CREATE INDEX spent ON answers (run_id, model, prompt_tokens, completion_tokens);
COMMIT;
