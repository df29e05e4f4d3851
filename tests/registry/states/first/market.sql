BEGIN TRANSACTION;
CREATE TABLE accounts (
	id INTEGER NOT NULL, 
	user_id VARCHAR(36) NOT NULL, 
	from_ns BIGINT NOT NULL, 
	customer VARCHAR(200) NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "accounts" VALUES(1,'11111111-1111-4111-8111-111111111111',1790812800000000000,'Größe & Co');
INSERT INTO "accounts" VALUES(2,'22222222-2222-4222-8222-222222222222',1790812800000000000,'Größe & Co');
CREATE TABLE clock (
	id INTEGER NOT NULL, 
	last_ns BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "clock" VALUES(1,1793577600000000000);
CREATE TABLE closed_months (
	month VARCHAR(7) NOT NULL, 
	closed_ns BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	PRIMARY KEY (month)
);
INSERT INTO "closed_months" VALUES('2026-10',1793577600000000000,'76f52e73f682d6a9f8b0cf3326d6e034c343d999afb73971f069b3319c6773c5');
CREATE TABLE closed_usage (
	month VARCHAR(7) NOT NULL, 
	plugin VARCHAR(200) NOT NULL, 
	user_id VARCHAR(200) NOT NULL, 
	calls BIGINT NOT NULL, 
	cpu_us BIGINT NOT NULL, 
	memory_mb_ms BIGINT NOT NULL, 
	api_calls BIGINT NOT NULL, 
	network_requests BIGINT NOT NULL, 
	host_cpu_us BIGINT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (month, plugin, user_id), 
	FOREIGN KEY(month) REFERENCES closed_months (month)
);
CREATE TABLE contracts (
	"key" VARCHAR(100) NOT NULL, 
	request TEXT NOT NULL, 
	customer VARCHAR(200) NOT NULL, 
	title TEXT NOT NULL, 
	cost BIGINT NOT NULL, 
	price BIGINT NOT NULL, 
	currency VARCHAR(3) NOT NULL, 
	at_ns BIGINT NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE TABLE decisions (
	id INTEGER NOT NULL, 
	submission INTEGER NOT NULL, 
	key_id VARCHAR(32) NOT NULL, 
	statement TEXT NOT NULL, 
	signature VARCHAR(128) NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(submission) REFERENCES submissions (id)
);
INSERT INTO "decisions" VALUES(1,1,'d73c2c762356a306f6e72c833da46f49','{"atNs":1790812800000000000,"decision":"approved","digest":"3bbaa7343252d51f0a7e780684cb90cf7461e2a15555015b95750e7d86383d69","keyId":"d73c2c762356a306f6e72c833da46f49","reason":"read it","submission":1,"uid":1000}','76602c96844106d114a26c94dd9b7f3982c84f79f9aa0ec4f41791a52ec78e1f07eb4df213d7f990fe4dd3544969159a526246c5a51b98855ddef8919da90203');
CREATE TABLE index_versions (
	version BIGINT NOT NULL, 
	at_ns BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "index_versions" VALUES(1,1790812800000000000,'29a9c32354c68fabf29454b82c8cae9b6e0a8f0fd47ba5989a6d6fe2ce6d0343');
CREATE TABLE indexes_seen (
	place VARCHAR(1000) NOT NULL, 
	version BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	PRIMARY KEY (place)
);
CREATE TABLE invoice_lines (
	month VARCHAR(7) NOT NULL, 
	number INTEGER NOT NULL, 
	kind VARCHAR(20) NOT NULL, 
	line_group VARCHAR(400) NOT NULL, 
	for_month VARCHAR(7) NOT NULL, 
	plugin VARCHAR(200) NOT NULL, 
	customer VARCHAR(200) NOT NULL, 
	author VARCHAR(200) NOT NULL, 
	currency VARCHAR(3) NOT NULL, 
	customer_minor BIGINT NOT NULL, 
	author_minor BIGINT NOT NULL, 
	platform_minor BIGINT NOT NULL, 
	quantity VARCHAR(200) NOT NULL, 
	PRIMARY KEY (month, number), 
	FOREIGN KEY(month) REFERENCES closed_months (month)
);
INSERT INTO "invoice_lines" VALUES('2026-10',1,'refund','refund:order-2','2026-10','sums','Größe & Co','ACME Corp','USD',-1995,-1396,-599,'purchase order-2, user 22222222-2222-4222-8222-222222222222');
INSERT INTO "invoice_lines" VALUES('2026-10',2,'sale','sale:order-1','2026-10','sums','Größe & Co','ACME Corp','USD',1995,1396,599,'purchase order-1, user 11111111-1111-4111-8111-111111111111');
INSERT INTO "invoice_lines" VALUES('2026-10',3,'sale','sale:order-2','2026-10','sums','Größe & Co','ACME Corp','USD',1995,1396,599,'purchase order-2, user 22222222-2222-4222-8222-222222222222');
CREATE TABLE lasting (
	id VARCHAR(80) NOT NULL, 
	op VARCHAR(40) NOT NULL, 
	args TEXT NOT NULL, 
	asked_ns BIGINT NOT NULL, 
	ended_ns BIGINT, 
	state VARCHAR(10) NOT NULL, 
	refusal TEXT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "lasting" VALUES('close-2026-10-5c672ab9','billing.close','{"month":"2026-10","author":"","customer":""}',1793577600000000000,1793577600000000000,'done','');
CREATE TABLE ledger_heads (
	ledger VARCHAR(40) NOT NULL, 
	seq BIGINT NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	PRIMARY KEY (ledger)
);
CREATE TABLE moves (
	id INTEGER NOT NULL, 
	submission INTEGER NOT NULL, 
	from_state VARCHAR(30) NOT NULL, 
	to_state VARCHAR(30) NOT NULL, 
	actor VARCHAR(200) NOT NULL, 
	uid BIGINT NOT NULL, 
	reason TEXT NOT NULL, 
	checklist TEXT NOT NULL, 
	at_ns BIGINT NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(submission) REFERENCES submissions (id)
);
INSERT INTO "moves" VALUES(1,1,'draft','submitted','ann',1000,'submitted','[]',1790812800000000000);
INSERT INTO "moves" VALUES(2,1,'submitted','scanning','market',0,'checks begin','[]',1790812800000000000);
INSERT INTO "moves" VALUES(3,1,'scanning','in_review','market',0,'checked by machine','[]',1790812800000000000);
INSERT INTO "moves" VALUES(4,1,'in_review','approved','rita',1000,'read it','["permissions","data","behaviour","tests","readme"]',1790812800000000000);
INSERT INTO "moves" VALUES(5,1,'approved','published','olga',1000,'published','[]',1790812800000000000);
CREATE TABLE prices (
	id INTEGER NOT NULL, 
	plugin VARCHAR(200) NOT NULL, 
	from_ns BIGINT NOT NULL, 
	price TEXT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "prices" VALUES(1,'sums',1790812800000000000,'{"amount":1995,"currency":"USD","interval":"month","model":"subscription"}');
CREATE TABLE publications (
	submission INTEGER NOT NULL, 
	entry TEXT NOT NULL, 
	PRIMARY KEY (submission), 
	FOREIGN KEY(submission) REFERENCES submissions (id)
);
INSERT INTO "publications" VALUES(1,'{"author":"ACME Corp","coverage":"100.00","digest":"3bbaa7343252d51f0a7e780684cb90cf7461e2a15555015b95750e7d86383d69","id":"sums","name":"Sums","permissions":[],"price":{"amount":1995,"currency":"USD","interval":"month","model":"subscription"},"published_ns":1790812800000000000,"sha256":"aa2dbcd2c209044670e387b1329af62ed1db86b1e80a9843eb67eb1ea1c3c169","size":2048,"state":"published","version":"1.0.0"}');
CREATE TABLE purchases (
	"key" VARCHAR(100) NOT NULL, 
	request TEXT NOT NULL, 
	plugin VARCHAR(200) NOT NULL, 
	version VARCHAR(200) NOT NULL, 
	author VARCHAR(200) NOT NULL, 
	user_id VARCHAR(36) NOT NULL, 
	customer VARCHAR(200) NOT NULL, 
	price TEXT NOT NULL, 
	currency VARCHAR(3) NOT NULL, 
	gross BIGINT NOT NULL, 
	fee BIGINT NOT NULL, 
	author_share BIGINT NOT NULL, 
	at_ns BIGINT NOT NULL, 
	anchor_ns BIGINT NOT NULL, 
	starts_ns BIGINT NOT NULL, 
	ends_ns BIGINT, 
	number INTEGER NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "purchases" VALUES('order-1','sums 11111111-1111-4111-8111-111111111111 Größe & Co','sums','1.0.0','ACME Corp','11111111-1111-4111-8111-111111111111','Größe & Co','{"amount":1995,"currency":"USD","interval":"month","model":"subscription"}','USD',1995,599,1396,1790812800000000000,1790812800000000000,1790812800000000000,1793491200000000000,0);
INSERT INTO "purchases" VALUES('order-2','sums 22222222-2222-4222-8222-222222222222 Größe & Co','sums','1.0.0','ACME Corp','22222222-2222-4222-8222-222222222222','Größe & Co','{"amount":1995,"currency":"USD","interval":"month","model":"subscription"}','USD',1995,599,1396,1790812800000000000,1790812800000000000,1790812800000000000,1793491200000000000,0);
CREATE TABLE refunds (
	"key" VARCHAR(100) NOT NULL, 
	request TEXT NOT NULL, 
	purchase VARCHAR(100) NOT NULL, 
	gross BIGINT NOT NULL, 
	fee BIGINT NOT NULL, 
	author_share BIGINT NOT NULL, 
	at_ns BIGINT NOT NULL, 
	reason TEXT NOT NULL, 
	PRIMARY KEY ("key"), 
	UNIQUE (purchase), 
	FOREIGN KEY(purchase) REFERENCES purchases ("key")
);
INSERT INTO "refunds" VALUES('refund-2','order-2','order-2',1995,599,1396,1791158400000000000,'bought twice');
CREATE TABLE schema_versions (name VARCHAR(40) PRIMARY KEY, version INTEGER NOT NULL);
INSERT INTO "schema_versions" VALUES('market',5);
CREATE TABLE submissions (
	id INTEGER NOT NULL, 
	plugin VARCHAR(200) NOT NULL, 
	version VARCHAR(200) NOT NULL, 
	digest VARCHAR(200) NOT NULL, 
	author VARCHAR(200) NOT NULL, 
	author_key VARCHAR(32) NOT NULL, 
	submitter VARCHAR(200) NOT NULL, 
	state VARCHAR(30) NOT NULL, 
	price TEXT NOT NULL, 
	contact VARCHAR(200) NOT NULL, 
	sla_hours INTEGER NOT NULL, 
	submitted_ns BIGINT NOT NULL, 
	changed_ns BIGINT NOT NULL, 
	reviewer VARCHAR(200) NOT NULL, 
	result TEXT NOT NULL, 
	result_signature VARCHAR(400) NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "submissions" VALUES(1,'sums','1.0.0','3bbaa7343252d51f0a7e780684cb90cf7461e2a15555015b95750e7d86383d69','ACME Corp','16b6c55e5b5764bbbb03c866ca5ac822','ann','published','{"amount":1995,"currency":"USD","interval":"month","model":"subscription"}','help@acme.example',12,1790812800000000000,1790812800000000000,'rita','{"digest":"3bbaa7343252d51f0a7e780684cb90cf7461e2a15555015b95750e7d86383d69","plugin":"sums","version":"1.0.0","checked_ns":1790812800000000000,"checks":[{"name":"scan","problems":[],"detail":{"warnings":[]}},{"name":"tests","problems":[],"detail":{"failed":0,"passed":2,"seconds":0.0}},{"name":"coverage","problems":[],"detail":{"branches":2,"branchesRun":2,"claimed":4,"claimedBranches":2,"files":["plugin.py"],"limit":"","lines":4,"linesRun":4,"percent":"100.00","proven":0,"provenPercent":"0.00"}},{"name":"readme","problems":[],"detail":{}},{"name":"pricing","problems":[],"detail":{"amount":1995,"currency":"USD","interval":"month","model":"subscription"}},{"name":"support","problems":[],"detail":{"contact":"help@acme.example","responseHours":12}}],"coverage":"100.00","proven":"0.00"}','90478e4ef861d345a372cfbffec74237ae3747a0d6ece9e59c69302d2a4a6378fb1e278309641db33dab06a5424261ce46077ecc9698ad275c6aeb4324f85908');
CREATE TABLE tickets (
	id INTEGER NOT NULL, 
	plugin VARCHAR(200) NOT NULL, 
	user_id VARCHAR(36) NOT NULL, 
	subject TEXT NOT NULL, 
	paid BOOLEAN NOT NULL, 
	opened_ns BIGINT NOT NULL, 
	responded_ns BIGINT, 
	closed_ns BIGINT, 
	responder VARCHAR(200) NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "tickets" VALUES(1,'sums','11111111-1111-4111-8111-111111111111','of an empty list',1,1791158400000000000,1791158400000000000,NULL,'ann');
CREATE INDEX submissions_plugin ON submissions (plugin, version);
CREATE INDEX prices_plugin ON prices (plugin, from_ns);
CREATE INDEX accounts_user ON accounts (user_id, from_ns);
CREATE INDEX purchases_of ON purchases (plugin, user_id);
CREATE INDEX tickets_plugin ON tickets (plugin);
CREATE INDEX ix_moves_submission ON moves (submission);
CREATE INDEX ix_decisions_submission ON decisions (submission);
CREATE INDEX lines_group ON invoice_lines (line_group);
CREATE TRIGGER invoice_lines_update BEFORE UPDATE ON invoice_lines BEGIN SELECT RAISE(ABORT, 'invoice_lines is immutable'); END;
CREATE TRIGGER invoice_lines_delete BEFORE DELETE ON invoice_lines BEGIN SELECT RAISE(ABORT, 'invoice_lines is immutable'); END;
CREATE TRIGGER closed_usage_update BEFORE UPDATE ON closed_usage BEGIN SELECT RAISE(ABORT, 'closed_usage is immutable'); END;
CREATE TRIGGER closed_usage_delete BEFORE DELETE ON closed_usage BEGIN SELECT RAISE(ABORT, 'closed_usage is immutable'); END;
CREATE TRIGGER closed_months_update BEFORE UPDATE ON closed_months BEGIN SELECT RAISE(ABORT, 'closed_months is immutable'); END;
CREATE TRIGGER closed_months_delete BEFORE DELETE ON closed_months BEGIN SELECT RAISE(ABORT, 'closed_months is immutable'); END;
COMMIT;
