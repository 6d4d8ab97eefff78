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
INSERT INTO "answers" VALUES('8e102c491e4a0ac8fb84cbe92bd040d2f912967818a6399e810cc646d4118f9f','target','ec5f48b992434c1186396987ae9df2f9',20,10,1.79605155712208771701e+09,'{"object":"chat.completion","model":"target","choices":[{"index":0,"message":{"role":"assistant","content":"The answer is plain."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','edf6c40347fdacbf');
INSERT INTO "answers" VALUES('f01f3f55f36f5517f02e51903671257ca10fafc5ed5b5730303650dbeca958da','target','ec5f48b992434c1186396987ae9df2f9',20,10,1.79605155712300825114e+09,'{"object":"chat.completion","model":"target","choices":[{"index":0,"message":{"role":"assistant","content":"The answer is plain."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','f8621b0e1dceaf34');
INSERT INTO "answers" VALUES('216c09119aa2e33ee9d8e58985629c836b6a96584476ac413c7fd21d20de0468','target','ec5f48b992434c1186396987ae9df2f9',20,10,1.79605155712369489668e+09,'{"object":"chat.completion","model":"target","choices":[{"index":0,"message":{"role":"assistant","content":"The answer is plain."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','f4ed54a306ba47b6');
INSERT INTO "answers" VALUES('8468d1561576037b43d3be6792a8f807860e05c10da3cc5a90c981968a68eb68','target','ec5f48b992434c1186396987ae9df2f9',20,10,1.79605155712436604506e+09,'{"object":"chat.completion","model":"target","choices":[{"index":0,"message":{"role":"assistant","content":"The answer is plain."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','435784811d2a5758');
INSERT INTO "answers" VALUES('f825d079ff05d23a42bb9204998747c0e7c39769b73838a8f807cc1bfd1b5958','reviser','ec5f48b992434c1186396987ae9df2f9',20,10,1.7960515571371746063e+09,'{"object":"chat.completion","model":"reviser","choices":[{"index":0,"message":{"role":"assistant","content":"A stronger model''s own answer is long and has many words in it."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','795fb6c1138da99d');
INSERT INTO "answers" VALUES('6778235bac3515503aee02ecd2b63f227356de2f954b48d6417398b3eac70e53','reviser','ec5f48b992434c1186396987ae9df2f9',20,10,1.79605155713821625714e+09,'{"object":"chat.completion","model":"reviser","choices":[{"index":0,"message":{"role":"assistant","content":"A stronger model''s own answer is long and has many words in it."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','f17670c944080fb3');
INSERT INTO "answers" VALUES('ea1313d97366dde103d2170a89bf0d34f3ac4b650593485fe2e6a1af871c3cc2','reviser','ec5f48b992434c1186396987ae9df2f9',20,10,1.79605155713894248004e+09,'{"object":"chat.completion","model":"reviser","choices":[{"index":0,"message":{"role":"assistant","content":"A stronger model''s own answer is long and has many words in it."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','e9a1d34bf2a6477d');
INSERT INTO "answers" VALUES('286b11af455c353cee428851f4b1f1f603f02a47986e3d03b54da3e594f7a54c','reviser','ec5f48b992434c1186396987ae9df2f9',20,10,1.79605155713990187645e+09,'{"object":"chat.completion","model":"reviser","choices":[{"index":0,"message":{"role":"assistant","content":"A stronger model''s own answer is long and has many words in it."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','6aa1e8015f1f3782');
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
