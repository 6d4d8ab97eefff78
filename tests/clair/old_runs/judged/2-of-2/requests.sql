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
INSERT INTO "answers" VALUES('8e102c491e4a0ac8fb84cbe92bd040d2f912967818a6399e810cc646d4118f9f','target','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.79605155699366712566e+09,'{"object":"chat.completion","model":"target","choices":[{"index":0,"message":{"role":"assistant","content":"The answer is plain."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','57c816c862ddddf1');
INSERT INTO "answers" VALUES('5d7a91f4fefc22594afa94c50999c4de99e2fe3daeaaa88b50d9ebe2f7db97e3','target','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.79605155699504947662e+09,'{"object":"chat.completion","model":"target","choices":[{"index":0,"message":{"role":"assistant","content":"The answer is plain. Really so."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','10d1f333c82fe796');
INSERT INTO "answers" VALUES('216c09119aa2e33ee9d8e58985629c836b6a96584476ac413c7fd21d20de0468','target','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.79605155699585700037e+09,'{"object":"chat.completion","model":"target","choices":[{"index":0,"message":{"role":"assistant","content":"The answer is plain."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','f0154462605b326c');
INSERT INTO "answers" VALUES('9243e3344f1028bc8f782464dd39cb34b32bc1b9a2c9447a78f7d8b97c1d7fe0','target','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.79605155699650311474e+09,'{"object":"chat.completion","model":"target","choices":[{"index":0,"message":{"role":"assistant","content":"The answer is plain. Really so."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','2e0d4f55374a62ee');
INSERT INTO "answers" VALUES('8468d1561576037b43d3be6792a8f807860e05c10da3cc5a90c981968a68eb68','target','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.79605155699711036684e+09,'{"object":"chat.completion","model":"target","choices":[{"index":0,"message":{"role":"assistant","content":"The answer is plain."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','21069a88a48ce17f');
INSERT INTO "answers" VALUES('7a334687e49fd392fab2da7cf18a8068e56ab96fd7e1aadd137211eba3b98833','target','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.79605155699789905549e+09,'{"object":"chat.completion","model":"target","choices":[{"index":0,"message":{"role":"assistant","content":"The answer is plain. Really so."},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','a6cff29fc10e9ca4');
INSERT INTO "answers" VALUES('99d29c80d25f4bc20529a677632eab0ac961a8bb71dbd31980bbd31e9c89a8f3','judge','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.79605155700838828086e+09,'{"object":"chat.completion","model":"judge","choices":[{"index":0,"message":{"role":"assistant","content":"<verdict>2</verdict>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','da0b7396351b1925');
INSERT INTO "answers" VALUES('0544c86d813806e52cc18324d231ba2ca0efdb1691a7379f971a999bd8ba991b','judge','5fa7fbf35cc149268b5fdd37754f9259',20,10,1796051557.00968,'{"object":"chat.completion","model":"judge","choices":[{"index":0,"message":{"role":"assistant","content":"<verdict>1</verdict>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','a6b5d144b8dcbaf6');
INSERT INTO "answers" VALUES('d4dc7c098bacfa4a8c8397c5453c326baf7c2e88fa37415bf72c33228423c90e','judge','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.7960515570106284619e+09,'{"object":"chat.completion","model":"judge","choices":[{"index":0,"message":{"role":"assistant","content":"<verdict>2</verdict>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','2cc494de83774009');
INSERT INTO "answers" VALUES('b267d34cf169199f18f32083ec57ade46a73e1563819832e44f824660dd5ebfa','judge','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.79605155701140022277e+09,'{"object":"chat.completion","model":"judge","choices":[{"index":0,"message":{"role":"assistant","content":"<verdict>1</verdict>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','458930b8b7c189cd');
INSERT INTO "answers" VALUES('3491cafa059ac504db3c3717d58455bfb1664588fe6d821a6aa35ea8c7e410df','judge','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.79605155701211595536e+09,'{"object":"chat.completion","model":"judge","choices":[{"index":0,"message":{"role":"assistant","content":"<verdict>2</verdict>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','72bf63bbaa46f1bb');
INSERT INTO "answers" VALUES('4bc9b6606c12e636e347be230383c80d7c5e419188c67898b77531c69600dc48','judge','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.79605155701293563849e+09,'{"object":"chat.completion","model":"judge","choices":[{"index":0,"message":{"role":"assistant","content":"<verdict>1</verdict>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','6281986a0630eac1');
INSERT INTO "answers" VALUES('ad894194f70cfea1c6845beb8791a7ae80728600a049a71337e4825a6ecbe48d','reviser','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.79605155702898025516e+09,'{"object":"chat.completion","model":"reviser","choices":[{"index":0,"message":{"role":"assistant","content":"<reasoning>\nbecause\n</reasoning>\n<revision>\nThe answer is plain. Really so. Really so. And it says why.\n</revision>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','44469e790c34237b');
INSERT INTO "answers" VALUES('d9b4f8a372e82be7bbedc8857accf20c35e9597366f185f4710e3e3d00da4762','reviser','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.79605155703003549578e+09,'{"object":"chat.completion","model":"reviser","choices":[{"index":0,"message":{"role":"assistant","content":"<reasoning>\nbecause\n</reasoning>\n<revision>\nThe answer is plain. Really so. Really so. And it says why.\n</revision>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','7556596868462d49');
INSERT INTO "answers" VALUES('1cbc1a137d44bb0de89b803cbc19276f8cedcb24868dca00996cf9fc2512690d','reviser','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.79605155703082704546e+09,'{"object":"chat.completion","model":"reviser","choices":[{"index":0,"message":{"role":"assistant","content":"<reasoning>\nbecause\n</reasoning>\n<revision>\nThe answer is plain. Really so. Really so. And it says why.\n</revision>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','6083caab4908d99c');
INSERT INTO "answers" VALUES('56e9005ee1e4cbb23356f4f4f108b26fc44f3c2e999a519169a89cfcef967b8b','judge','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.79605155705205082891e+09,'{"object":"chat.completion","model":"judge","choices":[{"index":0,"message":{"role":"assistant","content":"<verdict>yes</verdict>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','eb31ff32923112c8');
INSERT INTO "answers" VALUES('5f5e5f0dcfc706fc482dabd16c59e88b835c1e50b6e3a49ed8f43183f34da148','judge','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.79605155705303573608e+09,'{"object":"chat.completion","model":"judge","choices":[{"index":0,"message":{"role":"assistant","content":"<verdict>no</verdict>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','25f217043b1a5bb3');
INSERT INTO "answers" VALUES('1fd32af5958e8d4fec036dba164fdc1d5e1f101d714e2bc10b979ba9375baad2','judge','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.7960515570538849831e+09,'{"object":"chat.completion","model":"judge","choices":[{"index":0,"message":{"role":"assistant","content":"<verdict>yes</verdict>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','9e51ce830a6487a8');
INSERT INTO "answers" VALUES('e30e3c532bd84a563957f24c294a510aa4568518f4dd9257469d35d051322f7f','judge','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.79605155705462408068e+09,'{"object":"chat.completion","model":"judge","choices":[{"index":0,"message":{"role":"assistant","content":"<verdict>no</verdict>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','a5c70cfd6bda5375');
INSERT INTO "answers" VALUES('58d859c3a877d3affb15d6ac1a01a9b637f8ee1446f5c3d9007bb557f13f96ae','judge','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.79605155705531334877e+09,'{"object":"chat.completion","model":"judge","choices":[{"index":0,"message":{"role":"assistant","content":"<verdict>yes</verdict>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','650f6771904a65a9');
INSERT INTO "answers" VALUES('c1d56df8c42eaf4ac2667ce6f2835b4ebc5588c4e7d6303a8b8f597cfafd43bc','judge','5fa7fbf35cc149268b5fdd37754f9259',20,10,1.796051557056014061e+09,'{"object":"chat.completion","model":"judge","choices":[{"index":0,"message":{"role":"assistant","content":"<verdict>no</verdict>"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}','40c094234ac3d12a');
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
